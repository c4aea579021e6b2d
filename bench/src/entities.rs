//! The real server with very many entities: documents in folders in folders, put in bulk,
//! loaded again at a start, read by policies through attributes and hierarchy.

use std::{path::Path, time::Instant};

use serde_json::json;
use zta_client::Client;
use zta_proto::v1;

use crate::{
    Result, device,
    measure::{self, FULL, Plan, Target},
    policies::{self, AGENT, CELL, ROLES},
    random::Random,
    report::{Report, Series},
    requests::{self, Case, Expected},
    scale,
    server::RealServer,
    setup,
};

/// Entities of one Put.
const BULK: usize = 10_000;
/// Policies in force; each folder of theirs holds many documents.
const POLICIES: usize = 1000;
const SEED: u64 = 0x656e_7469;
const NAME: &str = "authorize_sqlite";

/// So many entities: folders of the policies, folders in those, and documents in these.
#[derive(Clone, Copy, Debug)]
pub struct World {
    entities: usize,
    tops: usize,
    folders: usize,
}

impl World {
    /// A world of so many entities below the folders of so many policies.
    ///
    /// # Errors
    /// There is no room for a document.
    pub fn new(entities: usize, policies: usize) -> Result<Self> {
        let tops = policies / CELL;
        let folders = (entities / 100).max(1);
        if tops == 0 || tops + folders >= entities {
            return Err(format!("{entities} entities are too few for {policies} policies").into());
        }
        Ok(Self {
            entities,
            tops,
            folders,
        })
    }

    /// How many entities there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entities
    }

    fn documents(&self) -> usize {
        self.entities - self.tops - self.folders
    }

    /// The `n`th entity. Parents come before their children.
    #[must_use]
    pub fn entity(&self, n: usize) -> v1::Entity {
        let folder = |id: &str| requests::entity("Bench::Folder", id);
        if n < self.tops {
            return v1::Entity {
                uid: Some(folder(&policies::folder(n))),
                ..Default::default()
            };
        }
        if n < self.tops + self.folders {
            let nth = n - self.tops;
            let parent = policies::folder(nth % self.tops);
            return v1::Entity {
                uid: Some(folder(&format!("shelf-{nth}"))),
                parents: vec![folder(&parent)],
                ..Default::default()
            };
        }
        self.document(n - self.tops - self.folders).entity()
    }

    fn document(&self, nth: usize) -> Document {
        let shelf = nth % self.folders;
        Document {
            nth,
            shelf,
            cell: shelf % self.tops,
        }
    }

    /// Requests of the generator's agent for documents anywhere.
    ///
    /// # Errors
    /// A defect of the generator.
    pub fn pool(&self, requests: usize) -> Result<Vec<Case>> {
        let mut random = Random::new(SEED);
        let case = |n| {
            let document = self.document(random.below(self.documents()));
            document.case(n)
        };
        (0..requests).map(case).collect()
    }
}

struct Document {
    nth: usize,
    shelf: usize,
    cell: usize,
}

impl Document {
    fn id(&self) -> String {
        format!("document-{}", self.nth)
    }

    fn is_own(&self) -> bool {
        self.nth.is_multiple_of(3)
    }

    fn sensitivity(&self) -> usize {
        self.nth % 5
    }

    fn is_sealed(&self) -> bool {
        self.nth % 10 == 9
    }

    fn entity(&self) -> v1::Entity {
        let owner = match self.is_own() {
            true => AGENT.to_owned(),
            false => format!("crew-{}", self.cell),
        };
        let mut attributes = json!({
            "owner": owner,
            "title": format!("minutes of meeting {}", self.nth),
            "sensitivity": self.sensitivity(),
            "labels": [format!("label-{}", self.nth % 20), "archive"],
        });
        if self.is_sealed() {
            attributes["sealed"] = true.into();
        }
        let shelf = format!("shelf-{}", self.shelf);
        v1::Entity {
            uid: Some(requests::entity("Bench::Document", &self.id())),
            attributes_json: attributes.to_string(),
            parents: vec![requests::entity("Bench::Folder", &shelf)],
            ..Default::default()
        }
    }

    /// What the policies of [`policies::cell`] say about reading or changing it.
    fn case(&self, n: usize) -> Result<Case> {
        let edit = n.is_multiple_of(2);
        let permitted = match edit {
            true => self.is_own(),
            false => self.sensitivity() <= 2 && ROLES.contains(&policies::team(self.cell).as_str()),
        };
        let expected = match (self.is_sealed(), permitted) {
            (true, _) => Expected::Deny(v1::DenyReason::Forbidden),
            (false, true) => Expected::Allow,
            (false, false) => Expected::Deny(v1::DenyReason::NotPermitted),
        };
        let action = if edit {
            "edit_document"
        } else {
            "read_document"
        };
        let context = json!({"framework": "bench"});
        let mut request = requests::call("", &context, n)?;
        request.action = Some(requests::entity("Bench::Action", action));
        request.resource = Some(requests::entity("Bench::Document", &self.id()));
        Ok(Case { request, expected })
    }
}

/// Runs this part.
///
/// # Errors
/// A server does not come up, an answer is wrong, or a log does not verify.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let world = World::new(plan.sizes.entities, POLICIES)?;
    let size = size_name(world.count());
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let admin = server.admin()?;
    setup::apply(&admin, policies::scoped(POLICIES)).await?;
    let credential = setup::enroll(&server, &ROLES).await?;
    let begin = Instant::now();
    put_all(&admin, world).await?;
    let put_s = begin.elapsed().as_secs_f64();
    say(&format!("{size} entities put in {put_s:.1} s"));
    report.figure(format!("entities_{size}_put_s"), put_s, 1);
    drop(admin);

    let pool = world.pool(scale::REQUESTS)?;
    let first = pool.first().ok_or("an empty pool")?.request.clone();
    let mut target = Target::new(
        format!("{NAME}_{size}_entities"),
        &credential,
        server.endpoint(),
        pool,
    )?;
    let restarted = scale::restart(plan, &mut server, &mut target, &credential, &first).await?;
    say(&format!(
        "start with {size} entities: {}",
        restarted.describe()
    ));
    let mut rounds = measure::alternate(plan, &[&target], FULL, say).await?;
    report.figure(format!("entities_{size}_load_s"), restarted.load_s, 2);
    let load_cpu_s = restarted.load_cpu_s;
    report.figure(format!("entities_{size}_load_cpu_s"), load_cpu_s, 2);
    let (loaded, driven) = (restarted.loaded, server.memory()?);
    report.figure(format!("entities_{size}_rss_loaded_mb"), loaded.rss_mb, 0);
    report.figure(format!("entities_{size}_rss_mb"), driven.rss_mb, 0);
    report.figure(format!("entities_{size}_rss_peak_mb"), driven.peak_mb, 0);
    report.add(Series {
        name: NAME,
        suffix: format!("_{size}_entities"),
        shape: FULL,
        rounds: rounds.pop().unwrap_or_default(),
    });
    drop(target);
    server.stop().await?;
    let proof = server.verify_audit()?;
    let proof = proof.lines().next().unwrap_or_default();
    report.verified(&format!("{NAME}_{size}_entities"), proof);
    Ok(())
}

async fn put_all(admin: &Client, world: World) -> Result<()> {
    let mut client = admin.entities();
    for from in (0..world.count()).step_by(BULK) {
        let to = world.count().min(from + BULK);
        let request = v1::EntityServicePutRequest {
            entities: (from..to).map(|n| world.entity(n)).collect(),
        };
        let answer = client.put(request).await;
        let answer = answer.map_err(zta_client::Error::from)?.into_inner();
        if answer.changed as usize != to - from {
            let changed = answer.changed;
            return Err(format!("of {} new entities {changed} were stored", to - from).into());
        }
    }
    Ok(())
}

/// `1m` for a million.
fn size_name(entities: usize) -> String {
    match (entities / 1_000_000, entities % 1_000_000) {
        (millions, 0) if millions > 0 => format!("{millions}m"),
        _ => entities.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parents_come_first_and_ids_are_unique() {
        let world = World::new(2000, 100).expect("room");
        let mut seen = BTreeSet::new();
        for n in 0..world.count() {
            let entity = world.entity(n);
            let key = |uid: &v1::EntityRef| (uid.r#type.clone(), uid.id.clone());
            for parent in &entity.parents {
                assert!(seen.contains(&key(parent)), "{n}");
            }
            assert!(seen.insert(key(&entity.uid.expect("a uid"))), "{n}");
        }
        assert!(World::new(100, 1000).is_err());
    }

    #[test]
    fn the_pool_holds_every_effect_and_only_what_exists() {
        let world = World::new(2000, 100).expect("room");
        let pool = world.pool(500).expect("pool");
        for expected in [
            Expected::Allow,
            Expected::Deny(v1::DenyReason::NotPermitted),
            Expected::Deny(v1::DenyReason::Forbidden),
        ] {
            assert!(pool.iter().any(|case| case.expected == expected));
        }
        let documents: BTreeSet<String> = (0..world.count())
            .filter_map(|n| world.entity(n).uid)
            .map(|uid| uid.id)
            .collect();
        for case in pool {
            assert!(documents.contains(&case.request.resource.expect("a resource").id));
        }
    }

    #[test]
    fn sizes_have_short_names() {
        assert_eq!(size_name(1_000_000), "1m");
        assert_eq!(size_name(2000), "2000");
    }
}

//! What a million entities take, and what one costs to build. Measurements, no tests.

use std::time::Instant;

use serde_json::json;

use super::super::*;
use super::{cedar_uid, uid, vocabulary};

const SCHEMA: &str = r#"namespace App {
  entity User;
  entity Folder in [Folder];
  entity Document in [Folder] = {
    title: String, owner: User, size: Long, public: Bool, labels: Set<String>,
  };
}"#;

fn document(n: usize) -> StoredEntity {
    let attributes = json!({
        "labels": ["internal", "finance"], "owner": {"id": format!("user{}", n % 5000), "type": "App::User"},
        "public": n.is_multiple_of(2), "size": n, "title": format!("document number {n}"),
    });
    StoredEntity {
        uid: EntityUid::new("App::Document", format!("document-{n:08}")),
        parents: vec![EntityUid::new(
            "App::Folder",
            format!("folder{}", n % 10_000),
        )],
        attributes: attributes.to_string(),
        tags: "{}".to_owned(),
    }
}

fn rss_mb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .expect("VmRSS");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<usize>().expect("a number") / 1024
}

#[test]
#[ignore = "a measurement, not a test"]
#[allow(clippy::print_stdout, reason = "a measurement says what it measured")]
fn a_million() {
    let vocabulary = vocabulary(SCHEMA);
    let types = &vocabulary.entity_types;
    let mut map = EntityMap::default();
    let (before, start) = (rss_mb(), Instant::now());
    let mut reading = std::time::Duration::ZERO;
    for first in (0..1_000_000).step_by(4096) {
        let page: Vec<_> = (first..(first + 4096).min(1_000_000))
            .map(|n| EntityVersion::Put(document(n)))
            .collect();
        let begun = Instant::now();
        map.apply(types, &page).expect("fits");
        reading += begun.elapsed();
    }
    println!(
        "load {reading:?} of {:?}, {} MB",
        start.elapsed(),
        rss_mb() - before
    );
    let begun = Instant::now();
    let one = map
        .with(types, &[EntityVersion::Put(document(7))])
        .expect("fits");
    println!("change of one {:?}", begun.elapsed());
    let batch: Vec<_> = (0..10_000)
        .map(|n| EntityVersion::Put(document(n * 100)))
        .collect();
    let begun = Instant::now();
    let many = map.with(types, &batch).expect("fits");
    println!("change of 10,000 {:?}", begun.elapsed());
    let begun = Instant::now();
    drop((one, many));
    println!("drop of both {:?}", begun.elapsed());
    let uids: Vec<_> = (0..1000)
        .map(|n| cedar_uid(&uid(&format!("Document/document-{:08}", n * 997))).expect("uid"))
        .collect();
    for round in 0..3 {
        let begun = Instant::now();
        for uid in &uids {
            let slice = map
                .slice(vec![], [], &[uid], 1, &|_| None)
                .expect("a slice");
            assert_eq!(slice.len(), 1);
        }
        println!("round {round}: slice of one {:?}", begun.elapsed() / 1000);
    }
    let begun = Instant::now();
    let ids = map.ids("App::Document", Some("document-00500000"), 100);
    println!("ids {:?} {}", begun.elapsed(), ids.len());
}

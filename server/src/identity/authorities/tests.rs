use time::macros::datetime;

use super::*;
use crate::keys::LocalKeys;

const NOW: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

fn keys(folder: &std::path::Path, brought: Vec<Ca>) -> CaKeys {
    let trust_domain = TrustDomain::parse("zta.local").expect("a trust domain");
    let keys = LocalKeys::open(folder, None).expect("keys");
    CaKeys::new(trust_domain, Box::new(keys), brought)
}

/// A log's first CA.
async fn first(folder: &std::path::Path) -> Authorities {
    let keys = keys(folder, Vec::new());
    let chain = keys.first(NOW).await.expect("a root");
    let first = keys.first_record(&chain).expect("its record");
    Authorities::start(keys, first, &[]).await.expect("starts")
}

fn anchors(authorities: &Authorities) -> Vec<String> {
    let bundle = authorities.current().bundle_pem();
    let mut blocks: Vec<String> = bundle
        .split_inclusive("-----END CERTIFICATE-----\n")
        .map(str::to_owned)
        .collect();
    blocks.dedup();
    blocks
}

fn with_state(record: &AuthorityRecord, state: AuthorityState) -> AuthorityRecord {
    AuthorityRecord {
        state,
        ..record.clone()
    }
}

#[tokio::test]
async fn the_set_is_what_is_on_record() {
    use AuthorityState::{Active, Prepared, Retired, Superseded};
    let folder = tempfile::tempdir().expect("a folder");
    let authorities = first(folder.path()).await;
    let records = authorities.on_record(&[]);
    let old = &records[0];
    assert_eq!((old.key.as_str(), old.state), ("ca", Active));
    let new = authorities.next(&records, false, NOW).await.expect("one");
    assert_eq!((new.key.as_str(), new.state), ("ca-2", Prepared));
    let subject = |record: &AuthorityRecord| {
        let chain = CaChain::from_pem(record.chain_pem.as_bytes());
        chain.expect("a chain").subject()
    };
    assert_eq!(subject(old), "CN=ZTA CA zta.local");
    assert_eq!(subject(&new), "CN=ZTA CA 2 zta.local");
    assert_eq!(
        anchors(&authorities),
        std::slice::from_ref(&old.chain_pem),
        "nobody's yet"
    );

    let mut changes = authorities.subscribe();
    let mut follow = async |old_state, new_state| {
        let records = [with_state(old, old_state), with_state(&new, new_state)];
        authorities.follow(&records).await.expect("follows");
        let again = authorities.follow(&records).await.expect("follows");
        assert!(!again, "nothing has changed since");
        assert!(changes.has_changed().expect("alive"));
        changes.mark_unchanged();
        let signing = authorities.signing().chain().id_hex();
        let issuers = authorities.current().issuers().len();
        (signing, issuers, anchors(&authorities))
    };
    let (first, second) = (old.chain_pem.clone(), new.chain_pem.clone());
    let both = follow(Active, Prepared).await;
    assert_eq!(
        both,
        (old.id.clone(), 2, vec![first.clone(), second.clone()])
    );
    let both = follow(Superseded, Active).await;
    assert_eq!(both, (new.id.clone(), 2, vec![second.clone(), first]));
    let alone = follow(Retired, Active).await;
    assert_eq!(alone, (new.id.clone(), 1, vec![second]));

    // A restart finds it so again, and the CA after that has a key of its own.
    let records = [with_state(old, Retired), with_state(&new, Active)];
    let keys = keys(folder.path(), Vec::new());
    let restarted = Authorities::start(keys, old.clone(), &records).await;
    let restarted = restarted.expect("starts");
    assert_eq!(restarted.signing().chain().id_hex(), new.id);
    let third = restarted.next(&records, false, NOW).await.expect("one");
    assert_eq!(third.key, "ca-3");
}

#[tokio::test]
async fn without_the_key_nothing_is_signed_by_the_new_ca_but_it_is_believed() {
    use AuthorityState::{Active, Retired, Superseded};
    let folder = tempfile::tempdir().expect("a folder");
    let authorities = first(folder.path()).await;
    let records = authorities.on_record(&[]);
    let new = authorities.next(&records, false, NOW).await.expect("one");
    std::fs::remove_file(folder.path().join("keys/ca-2.pem")).expect("gone");
    let records = [
        with_state(&records[0], Superseded),
        with_state(&new, Active),
    ];
    let error = authorities.follow(&records).await.expect_err("no key");
    assert!(matches!(error, CaError::KeyMissing(_)), "{error}");
    assert_eq!(authorities.signing().chain().id_hex(), records[0].id);
    assert_eq!(authorities.current().issuers().len(), 2);

    // A retired one signs in no case.
    let records = [with_state(&records[0], Retired), with_state(&new, Active)];
    authorities.follow(&records).await.expect_err("no key");
    let keys = keys(folder.path(), Vec::new());
    let start = Authorities::start(keys, records[0].clone(), &records).await;
    assert!(matches!(start, Err(CaError::KeyMissing(_))));
}

#[tokio::test]
async fn each_trusted_ca_has_a_revocation_list() {
    use AuthorityState::{Active, Superseded};
    let folder = tempfile::tempdir().expect("a folder");
    let authorities = first(folder.path()).await;
    let records = authorities.on_record(&[]);
    let new = authorities.next(&records, false, NOW).await.expect("one");
    let records = [
        with_state(&records[0], Superseded),
        with_state(&new, Active),
    ];
    authorities.follow(&records).await.expect("follows");
    let revocations = Revocations {
        log_size: 1,
        revoked: vec![(vec![0x41, 1], NOW)],
    };
    let lists = authorities.current().revocation_lists(&revocations, NOW);
    assert_eq!(lists.expect("signed").len(), 2);
}

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

const ORIGIN: &str = "zta.local/log/test";

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().expect("a key"))
    }

    fn key(&self, origin: &str) -> LogKey {
        let public = self.0.public_key().as_ref();
        LogKey {
            origin: origin.to_owned(),
            public: public.try_into().expect("32 bytes"),
        }
    }

    fn text(&self) -> String {
        let key = self.key(ORIGIN);
        let id = u32::from_be_bytes(key.id());
        let bytes = [&[ED25519_TYPE], &key.public[..]].concat();
        format!("{ORIGIN}+{id:08x}+{}", BASE64.encode(bytes))
    }

    fn note(&self, size: u64, root: &Hash) -> String {
        let text = format!("{ORIGIN}\n{size}\n{}\n", BASE64.encode(root));
        let signature = self.0.sign(text.as_bytes());
        let bytes = [&self.key(ORIGIN).id(), signature.as_ref()].concat();
        format!("{text}\n— {ORIGIN} {}\n", BASE64.encode(bytes))
    }
}

fn leaf(n: usize) -> Vec<u8> {
    format!("leaf {n}").into_bytes()
}

/// The root over leaves `range`, as RFC 6962 defines it.
fn root(range: std::ops::Range<usize>) -> Hash {
    match range.len() {
        0 => node(&[]),
        1 => node(&[&[0], &leaf(range.start)]),
        n => {
            let middle = range.start + (1 << (n - 1).ilog2());
            join(&root(range.start..middle), &root(middle..range.end))
        }
    }
}

fn path(index: usize, range: std::ops::Range<usize>) -> Vec<Hash> {
    if range.len() < 2 {
        return Vec::new();
    }
    let middle = range.start + (1 << (range.len() - 1).ilog2());
    let (mut path, sibling) = match index < middle {
        true => (path(index, range.start..middle), root(middle..range.end)),
        false => (path(index, middle..range.end), root(range.start..middle)),
    };
    path.push(sibling);
    path
}

fn consistency(old: usize, range: std::ops::Range<usize>, known: bool) -> Vec<Hash> {
    if old == range.end {
        return if known { Vec::new() } else { vec![root(range)] };
    }
    let middle = range.start + (1 << (range.len() - 1).ilog2());
    let (mut proof, hash) = match old <= middle {
        true => (
            consistency(old, range.start..middle, known),
            root(middle..range.end),
        ),
        false => (
            consistency(old, middle..range.end, false),
            root(range.start..middle),
        ),
    };
    proof.push(hash);
    proof
}

fn receipt(signer: &Signer, index: usize, size: usize) -> v1::Receipt {
    let hashes = path(index, 0..size);
    let hashes: String = hashes.iter().map(|h| BASE64.encode(h) + "\n").collect();
    let note = signer.note(size as u64, &root(0..size));
    v1::Receipt {
        leaf: leaf(index),
        proof: format!("{RECEIPT}\nindex {index}\n{hashes}\n{note}"),
    }
}

#[test]
fn a_key_has_one_text_form() {
    let signer = Signer::new();
    assert_eq!(LogKey::parse(&signer.text()), Ok(signer.key(ORIGIN)));
    let text = signer.text();
    for wrong in [
        String::new(),
        text.replacen("zta.local", "zta.locaI", 1),
        text.replacen('+', "-", 1),
        text[..text.len() - 4].to_owned(),
    ] {
        assert_eq!(LogKey::parse(&wrong), Err(LogError::Key), "{wrong}");
    }
}

#[test]
fn receipts_prove_their_leaf_and_nothing_else() {
    let signer = Signer::new();
    let key = signer.key(ORIGIN);
    for size in 1..40 {
        for index in 0..size {
            let good = receipt(&signer, index, size);
            let recorded = key.verify_receipt(&good).expect("on record");
            assert_eq!(recorded.sequence, index as u64);
            assert_eq!(recorded.checkpoint.size(), size as u64);
            let sequence = index as u64;
            let edited = v1::Receipt {
                leaf: b"another".to_vec(),
                ..good.clone()
            };
            let refused = Err(LogError::NotIncluded { sequence });
            assert_eq!(key.verify_receipt(&edited), refused);
            let moved = good.proof.replacen(
                &format!("index {index}\n"),
                &format!("index {}\n", index + 1),
                1,
            );
            let moved = v1::Receipt {
                proof: moved,
                ..good
            };
            assert!(key.verify_receipt(&moved).is_err(), "{index} of {size}");
        }
    }
}

#[test]
fn forged_receipts_are_refused() {
    let (signer, thief) = (Signer::new(), Signer::new());
    let key = signer.key(ORIGIN);
    let good = receipt(&signer, 3, 10);
    let with = |from: &str, to: &str| v1::Receipt {
        proof: good.proof.replacen(from, to, 1),
        ..good.clone()
    };
    let refused = |receipt: &v1::Receipt| key.verify_receipt(receipt).expect_err("refused");
    assert_eq!(refused(&receipt(&thief, 3, 10)), LogError::Signature);
    assert_eq!(refused(&with("\n10\n", "\n11\n")), LogError::Signature);
    let other = with("\n\nzta.local", "\n\nzta.locaI");
    assert!(matches!(refused(&other), LogError::OtherLog(_)));
    for (from, to) in [
        ("@v1", "@v2"),
        ("index 3", "index 03"),
        ("index 3", "index x"),
        ("\n\n", "\n"),
        ("index 3\n", "index 3\nx\n"),
    ] {
        let error = refused(&with(from, to));
        assert!(matches!(error, LogError::Malformed(_)), "{from} {error:?}");
    }
}

#[test]
fn a_view_takes_what_extends_it_and_names_what_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::new();
    let note = |size: usize| signer.note(size as u64, &root(0..size));
    let proof = |old: usize, new: usize| {
        let proof = consistency(old, 0..new, true);
        proof.iter().map(|hash| hash.to_vec()).collect::<Vec<_>>()
    };
    for old in 1..20 {
        for new in old..24 {
            let file = folder.path().join(format!("{old}-{new}"));
            let view = LogView::new(signer.key(ORIGIN), &file);
            assert_eq!(view.last(), Ok(None));
            view.advance(&note(old), &[]).expect("the first one");
            let other = signer.note(new as u64, &[7; 32]);
            let split = view.advance(&other, &proof(old, new));
            assert!(
                matches!(split, Err(LogError::SplitView { .. })),
                "{split:?}"
            );
            if new > old {
                let unproved = view.advance(&note(new), &[]);
                assert!(matches!(unproved, Err(LogError::SplitView { .. })));
            }
            let kept = view.last().expect("kept").expect("the first one");
            assert_eq!(
                kept.size(),
                old as u64,
                "what does not extend it is not taken"
            );
            view.advance(&note(new), &proof(old, new)).expect("extends");
            let kept = view.last().expect("kept").expect("the newer one");
            assert_eq!((kept.size(), kept.root()), (new as u64, root(0..new)));
            if new > old {
                let (size, known) = (old as u64, new as u64);
                let back = view.advance(&note(old), &[]);
                assert_eq!(back, Err(LogError::RolledBack { size, known }));
            }
        }
    }
    let file = folder.path().join("broken");
    std::fs::write(&file, "trust me").expect("written");
    let view = LogView::new(signer.key(ORIGIN), &file);
    assert!(
        view.advance(&note(3), &[]).is_err(),
        "no view is no first sight"
    );
}

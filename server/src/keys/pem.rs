//! PEM (RFC 7468): one block, as this server and OpenSSL write it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Characters of base64 in a line.
const LINE_LEN: usize = 64;

/// `der` as one PEM block with `label`.
///
/// The text is wiped when dropped, since it may hold a private key.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Room for everything at once: a growing String would leave copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(
        body.len() + body.len() / LINE_LEN + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_LEN));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The bytes of `text`, which must be exactly one PEM block with `label`.
pub(crate) fn decode(label: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body = text
        .trim()
        .strip_prefix("-----BEGIN ")?
        .strip_prefix(label)?
        .strip_prefix("-----")?
        .strip_suffix("-----")?
        .strip_suffix(label)?
        .strip_suffix("-----END ")?;
    let mut compact = Zeroizing::new(String::with_capacity(body.len()));
    compact.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; compact.len() / 4 * 3 + 3]);
    let len = STANDARD.decode_slice(compact.as_bytes(), &mut der).ok()?;
    der.truncate(len);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = encode("PRIVATE KEY", &bytes);
            prop_assert!(text.lines().all(|line| line.len() <= LINE_LEN));
            let decoded = decode("PRIVATE KEY", &text).expect("own output");
            prop_assert_eq!(decoded.as_slice(), bytes.as_slice());
        }
    }

    #[test]
    fn anything_but_one_block_of_the_label_is_refused() {
        let good = encode("PRIVATE KEY", b"abc");
        for bad in [
            String::new(),
            "-----BEGIN PRIVATE KEY-----".to_owned(),
            good.replace("PRIVATE KEY", "EC PRIVATE KEY"),
            format!("{}{}", *good, *good),
            good.replace("YWJj", "YW!j"),
            good.replace("-----END", "-----FIN"),
        ] {
            assert!(decode("PRIVATE KEY", &bad).is_none(), "{bad}");
        }
    }
}

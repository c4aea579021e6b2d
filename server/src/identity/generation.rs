//! The generation of a certificate: how many this key has had, itself included. It stands
//! in the certificate, signed, so that whoever presents one says by it how old it is.
//!
//! An X.509 extension of our own, not critical: others may read past it. Its value is a DER
//! INTEGER. Its object identifier is 2.25.2052847902693316275: the arc 2.25 is for
//! numbers that are made from UUIDs; this one is the low 63 bits of
//! `6f3c0b1e-5d0a-4b5e-9c7d-2e4a81f0d6b3`, because libraries keep an arc in 64 bits.

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Oid;

/// The extension's object identifier.
pub(crate) const GENERATION_OID: [u64; 3] = [2, 25, 2_052_847_902_693_316_275];
/// The tag of an INTEGER in DER.
const INTEGER: u8 = 2;

/// The value of the extension.
pub(super) fn encode(generation: u64) -> Vec<u8> {
    let bytes = generation.to_be_bytes();
    let skipped = bytes.iter().take(7).take_while(|&&byte| byte == 0).count();
    let mut value = bytes[skipped..].to_vec();
    // A leading bit would make it negative.
    if value[0] & 0x80 != 0 {
        value.insert(0, 0);
    }
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [vec![INTEGER, length], value].concat()
}

/// The generation in a certificate, if it has the extension.
///
/// # Errors
/// When the extension stands there twice, or its value is not what [`encode`] makes.
pub(super) fn of(certificate: &X509Certificate<'_>) -> Result<Option<u64>, ()> {
    let oid = Oid::from(&GENERATION_OID).map_err(|_| ())?;
    let extension = certificate.get_extension_unique(&oid).map_err(|_| ())?;
    extension.map(|e| decode(e.value).ok_or(())).transpose()
}

fn decode(der: &[u8]) -> Option<u64> {
    let [INTEGER, length, value @ ..] = der else {
        return None;
    };
    if usize::from(*length) != value.len() || value.is_empty() || value.len() > 9 {
        return None;
    }
    let generation = value.iter().try_fold(0_u64, |n, &byte| {
        n.checked_mul(256)?.checked_add(byte.into())
    })?;
    // One way to write it: neither negative nor longer than it must be.
    (encode(generation) == der).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_read_as_it_was_written_and_in_no_other_way() {
        for generation in [
            0,
            1,
            127,
            128,
            255,
            256,
            65_535,
            1 << 31,
            u64::MAX >> 1,
            u64::MAX,
        ] {
            assert_eq!(
                decode(&encode(generation)),
                Some(generation),
                "{generation}"
            );
        }
        assert_eq!(encode(1), [2, 1, 1]);
        assert_eq!(encode(128), [2, 2, 0, 128]);
        for der in [
            &[][..],
            &[2],
            &[2, 0],
            &[2, 1],
            &[2, 1, 0x80],
            &[2, 2, 0, 1],
            &[2, 1, 1, 0],
            &[2, 2, 1],
            &[4, 1, 1],
            &[2, 0x81, 1, 1],
            &[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[2, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(decode(der), None, "{der:?}");
        }
    }
}

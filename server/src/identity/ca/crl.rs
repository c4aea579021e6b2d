//! Certificate revocation lists (RFC 5280, version 2).
//!
//! For others than this server, which looks at the state of keys and agents on every call
//! and needs no list: a gateway that believes SVIDs by itself, for one.

use rcgen::{CertificateRevocationListParams, RevokedCertParams, SerialNumber};
use time::{Duration, OffsetDateTime};

use super::{Ca, CaError};
use crate::keys::pem;

/// How long a list holds. It is made again at half of that, and after each revocation.
pub(crate) const CRL_LIFETIME: Duration = Duration::HOUR;

/// What is revoked and has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revocations {
    /// The size of the log that it was read at: a later list has a larger one.
    pub(crate) log_size: u64,
    /// Serial numbers, each with when it was found to be revoked.
    pub(crate) revoked: Vec<(Vec<u8>, OffsetDateTime)>,
}

/// A signed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crl {
    /// The list.
    pub(crate) der: Vec<u8>,
}

impl Crl {
    /// The list as PEM.
    pub(crate) fn pem(&self) -> String {
        pem::encode("X509 CRL", &self.der).to_string()
    }
}

impl Ca {
    /// Signs what is revoked, for an hour from `now` on.
    ///
    /// Its number grows with the log and, where that does not, with the clock, so that
    /// the replicas of a fleet need not agree on a counter.
    pub(crate) fn sign_crl(
        &self,
        revocations: &Revocations,
        now: OffsetDateTime,
    ) -> Result<Crl, CaError> {
        let milliseconds = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let number = u128::from(revocations.log_size) << 64 | u128::from(milliseconds);
        let revoked_certs = revocations
            .revoked
            .iter()
            .map(|(serial, at)| RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: at.truncate_to_second(),
                reason_code: None,
                invalidity_date: None,
            });
        let list = CertificateRevocationListParams {
            this_update: now.truncate_to_second(),
            next_update: (now + CRL_LIFETIME).truncate_to_second(),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: self.key_identifier.clone(),
        };
        let der = list.signed_by(&self.issuer)?.der().to_vec();
        Ok(Crl { der })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    use x509_parser::revocation_list::CertificateRevocationList;

    use super::super::tests::ca;
    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00.75 UTC);

    fn number(crl: &Crl) -> Vec<u8> {
        let (_, list) = CertificateRevocationList::from_der(&crl.der).expect("a CRL");
        list.crl_number().expect("a number").to_bytes_be()
    }

    #[test]
    fn a_list_names_the_revoked_and_who_says_so() {
        let ca = ca();
        let revocations = |log_size, serials: &[&[u8]]| Revocations {
            log_size,
            revoked: serials.iter().map(|s| (s.to_vec(), NOW)).collect(),
        };
        let crl = ca.sign_crl(&revocations(7, &[&[0x41, 1], &[0x42, 2]]), NOW);
        let crl = crl.expect("signed");
        let (rest, list) = CertificateRevocationList::from_der(&crl.der).expect("a CRL");
        assert!(rest.is_empty());
        assert_eq!(list.version().map(|v| v.0), Some(1), "version 2");
        let serials: Vec<_> = list
            .iter_revoked_certificates()
            .map(|r| r.raw_serial())
            .collect();
        assert_eq!(serials, [[0x41, 1], [0x42, 2]]);
        assert_eq!(
            list.last_update().to_datetime(),
            datetime!(2026-11-22 12:00 UTC)
        );
        let next = list.next_update().expect("one").to_datetime();
        assert_eq!(next, datetime!(2026-11-22 13:00 UTC));
        let (_, own) = X509Certificate::from_der(ca.certificate_der()).expect("X.509");
        assert_eq!(list.issuer().as_raw(), own.subject().as_raw());

        let empty = ca.sign_crl(&revocations(0, &[]), NOW).expect("signed");
        let (_, list) = CertificateRevocationList::from_der(&empty.der).expect("a CRL");
        assert_eq!(list.iter_revoked_certificates().count(), 0);
    }

    #[test]
    fn numbers_grow_with_the_log_and_with_the_clock() {
        let ca = ca();
        let at = |log_size, now| {
            let revocations = Revocations {
                log_size,
                revoked: Vec::new(),
            };
            let crl = ca.sign_crl(&revocations, now).expect("signed");
            let bytes = number(&crl);
            assert!(bytes.len() <= 20, "RFC 5280, 5.2.3");
            let mut padded = [0; 20];
            padded[20 - bytes.len()..].copy_from_slice(&bytes);
            padded
        };
        assert!(at(0, NOW) < at(0, NOW + Duration::MILLISECOND));
        assert!(at(0, NOW + Duration::DAY) < at(1, NOW));
        assert!(at(1, NOW) < at(256, NOW));
        assert!(at(256, NOW) < at(u64::MAX >> 1, NOW));
    }
}

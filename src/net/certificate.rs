//! The common name of an X.509 certificate, and its hash for channel binding.
//!
//! rustls verifies certificates but does not say whom they name, nor how they are signed, and two attributes do not pay for
//! an X.509 library: the way to them is nine elements long, and three. Every length is checked; anything unexpected is
//! "none".
//!
//! Sources: RFC 5280, section 4.1 (`Certificate`, `TBSCertificate`, `Name`); RFC 5929, section 4.1 (`tls-server-end-point`).

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The first common name of the certificate's subject, as PostgreSQL takes it for `cert` authentication.
///
/// `None`: there is none, or it is empty, holds a NUL, or is in an encoding that is neither ASCII nor UTF-8.
pub(super) fn common_name(certificate: &[u8]) -> Option<&str> {
    let mut names = Elements(subject(certificate)?);
    while let Some(set) = names.expect(SET) {
        let mut attributes = Elements(set);
        while let Some(attribute) = attributes.expect(SEQUENCE) {
            let mut attribute = Elements(attribute);
            if attribute.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
                return text(attribute.next()?);
            }
        }
    }
    None
}

/// What a server's certificate is in channel binding: hashed as its signature is, by SHA-256 where that is MD5 or SHA-1.
///
/// `None`: its signature's algorithm does not tell (Ed25519, RSASSA-PSS).
pub(super) fn end_point(certificate: &[u8]) -> Option<Box<[u8]>> {
    let mut fields = Elements(Elements(certificate).expect(SEQUENCE)?);
    let _to_be_signed = fields.expect(SEQUENCE)?;
    let algorithm = Elements(fields.expect(SEQUENCE)?).expect(OBJECT_IDENTIFIER)?;
    let hash = match algorithm.split_last()? {
        (MD5_WITH_RSA | SHA1_WITH_RSA | SHA256_WITH_RSA, RSA) | (ECDSA_WITH_SHA1, ECDSA) => {
            Sha256::digest(certificate).to_vec()
        }
        (ECDSA_WITH_SHA256, ECDSA_SHA2) => Sha256::digest(certificate).to_vec(),
        (SHA384_WITH_RSA, RSA) | (ECDSA_WITH_SHA384, ECDSA_SHA2) => Sha384::digest(certificate).to_vec(),
        (SHA512_WITH_RSA, RSA) | (ECDSA_WITH_SHA512, ECDSA_SHA2) => Sha512::digest(certificate).to_vec(),
        _ => return None,
    };
    Some(hash.into())
}

/// The content of TBSCertificate's `subject`.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let certificate = Elements(certificate).expect(SEQUENCE)?;
    let mut fields = Elements(Elements(certificate).expect(SEQUENCE)?);
    let version = Elements(fields.0).next()?;
    if version.0 == EXPLICIT_0 {
        fields.next()?;
    }
    fields.expect(INTEGER)?;
    let [_signature, _issuer, _validity] =
        [fields.expect(SEQUENCE)?, fields.expect(SEQUENCE)?, fields.expect(SEQUENCE)?];
    fields.expect(SEQUENCE)
}

fn text((tag, content): (u8, &[u8])) -> Option<&str> {
    let text = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(content).ok()?,
        _ => return None,
    };
    (!text.is_empty() && !text.contains('\0')).then_some(text)
}

/// DER elements, one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Tag and content of the next one.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next one, if it has this tag.
    fn expect(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
    }
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;

/// 2.5.4.3, id-at-commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// 1.2.840.113549.1.1, pkcs-1; the next number is one of these.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const MD5_WITH_RSA: &u8 = &4;
const SHA1_WITH_RSA: &u8 = &5;
const SHA256_WITH_RSA: &u8 = &11;
const SHA384_WITH_RSA: &u8 = &12;
const SHA512_WITH_RSA: &u8 = &13;

/// 1.2.840.10045.4, signatures of ansi-X9-62.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
const ECDSA_WITH_SHA1: &u8 = &1;

/// 1.2.840.10045.4.3, ecdsa-with-SHA2.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const ECDSA_WITH_SHA256: &u8 = &2;
const ECDSA_WITH_SHA384: &u8 = &3;
const ECDSA_WITH_SHA512: &u8 = &4;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    };

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_found_among_other_attributes() {
        let der = certificate(&[
            (DnType::CountryName, "NL"),
            (DnType::OrganizationName, "x"),
            (DnType::CommonName, "zoë"),
        ]);
        assert_eq!(common_name(&der), Some("zoë"));
        assert_eq!(common_name(&certificate(&[(DnType::OrganizationName, "x")])), None);
        assert_eq!(
            common_name(&certificate(&[(DnType::CommonName, "a\0b")])),
            None,
            "a NUL could hide a name"
        );
    }

    #[test]
    fn a_certificate_is_hashed_as_it_is_signed() {
        let der = certificate(&[]);
        assert_eq!(end_point(&der).as_deref(), Some(&*Sha256::digest(&der)));
        let signed = |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().der().to_vec();
        let der = signed(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
        assert_eq!(end_point(&der).as_deref(), Some(&*Sha384::digest(&der)));
        let der = signed(&KeyPair::generate_for(&PKCS_ED25519).unwrap());
        assert_eq!(end_point(&der), None);
    }

    #[test]
    fn rsa_tells_its_hash_too() {
        let signed_by = |number: u8| {
            let algorithm = [&[OBJECT_IDENTIFIER, 9], RSA, &[number]].concat();
            let fields = [&[SEQUENCE, 0, SEQUENCE, algorithm.len() as u8], &*algorithm].concat();
            [&[SEQUENCE, fields.len() as u8], &*fields].concat()
        };
        for (number, length) in [(4, 32), (5, 32), (11, 32), (12, 48), (13, 64)] {
            assert_eq!(end_point(&signed_by(number)).map(|hash| hash.len()), Some(length), "{number}");
        }
        assert_eq!(end_point(&signed_by(10)), None, "RSASSA-PSS");
    }

    #[test]
    fn no_cut_of_a_certificate_has_a_wrong_name() {
        let der = certificate(&[(DnType::CommonName, "app")]);
        for end in 0..der.len() {
            assert_eq!(common_name(&der[..end]), None);
            assert_eq!(end_point(&der[..end]), None);
        }
        for at in 0..der.len() {
            let mut broken = der.clone();
            broken[at] ^= 0xff;
            let _ = (common_name(&broken), end_point(&broken));
        }
    }
}

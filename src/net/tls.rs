//! TLS towards clients ([`Acceptor`]) and towards servers ([`Connector`]).
//!
//! Both are built from the configuration once and replaced as a whole by a reload. The cryptography is `ring`'s, handed
//! to every configuration by argument: nothing is installed for the whole process. Sessions are not resumed, as
//! PostgreSQL does not either, so that a certificate is looked at in every handshake.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Stream;
use super::certificate::{common_name, end_point};
use crate::config::{ClientTls, ServerTls, TlsMode};

/// The protocol's name in ALPN; since PostgreSQL 17 both sides offer it, and TLS without an SSLRequest requires it.
pub const ALPN: &[u8] = b"postgresql";

/// The first byte of a TLS ClientHello's record: what direct TLS begins with, and no startup packet.
pub const CLIENT_HELLO: u8 = 0x16;

/// TLS that cannot be set up as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSetupError {
    /// A file that cannot be used. The reason never quotes the file.
    File {
        /// Which one.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file that the mode needs; the name of its key.
    Missing(&'static str),
    /// The certificate or key cannot be used.
    Unusable(String),
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsSetupError::File { file, reason } => write!(f, "{}: {reason}", file.display()),
            TlsSetupError::Missing(key) => write!(f, "this TLS mode needs {key}"),
            TlsSetupError::Unusable(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for TlsSetupError {}

/// Puts TLS on connections from clients.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// Tells which client certificates are good, if any were asked for.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    /// The certificate, for channel binding.
    end_point: Option<Arc<[u8]>>,
}

impl Acceptor {
    /// What the configuration asks for; `None` if clients get no TLS.
    ///
    /// A client certificate is asked for if there is a `ca_file`. Both verify modes refuse a client without a good one;
    /// `prefer` and `require` let any client in, and [`Stream::peer_name`] is then only told for a good one.
    ///
    /// # Errors
    /// Files that are missing, unreadable or do not fit together.
    pub fn new(tls: &ClientTls) -> Result<Option<Self>, TlsSetupError> {
        if tls.mode == TlsMode::Disable {
            return Ok(None);
        }
        let cert_file = tls.cert_file.as_deref().ok_or(TlsSetupError::Missing("cert_file"))?;
        let key_file = tls.key_file.as_deref().ok_or(TlsSetupError::Missing("key_file"))?;
        let authorities = match (&tls.ca_file, tls.mode) {
            (Some(file), _) => Some(client_verifier(file)?),
            (None, TlsMode::VerifyCa | TlsMode::VerifyFull) => return Err(TlsSetupError::Missing("ca_file")),
            (None, _) => None,
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match (&authorities, tls.mode) {
            (None, _) => builder.with_no_client_auth(),
            (Some(strict), TlsMode::VerifyCa | TlsMode::VerifyFull) => {
                builder.with_client_cert_verifier(strict.clone())
            }
            (Some(strict), _) => builder.with_client_cert_verifier(Arc::new(Lenient(strict.clone()))),
        };
        let chain = certificates(cert_file)?;
        let end_point = chain.first().and_then(|certificate| end_point(certificate)).map(Arc::from);
        let mut config = builder
            .with_single_cert(chain, key(key_file)?)
            .map_err(|error| file_error(cert_file, pair_error(&error, key_file)))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Acceptor { config: Arc::new(config), authorities, end_point }))
    }

    /// The handshake after an SSLRequest was answered with `S`. Nothing may have been read beyond that request.
    ///
    /// # Errors
    /// A handshake that fails.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        self.handshake(stream, &[]).await
    }

    /// The handshake of a client that began with TLS at once ([`CLIENT_HELLO`]); `first` is what was read already.
    ///
    /// # Errors
    /// A handshake that fails, or that did not agree on [`ALPN`]: PostgreSQL asks for it here, so that a protocol
    /// without TLS negotiation of its own cannot be mistaken for this one.
    pub async fn accept_direct(&self, stream: Stream, first: &[u8]) -> io::Result<Stream> {
        let stream = self.handshake(stream, first).await?;
        match stream.alpn() {
            Some(ALPN) => Ok(stream),
            _ => Err(io::Error::new(
                ErrorKind::InvalidData,
                "direct TLS connection without ALPN protocol negotiation",
            )),
        }
    }

    async fn handshake(&self, stream: Stream, mut first: &[u8]) -> io::Result<Stream> {
        let socket = stream.into_socket()?;
        let accept = TlsAcceptor::from(self.config.clone()).accept_with(socket, |connection| {
            while !first.is_empty() && connection.read_tls(&mut first).is_ok_and(|count| count > 0) {
                // An error stays in the connection, and comes back where the handshake goes on.
                let _ = connection.process_new_packets();
            }
        });
        let stream = Box::pin(accept).await?;
        if !first.is_empty() {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "more before the TLS handshake than it can hold",
            ));
        }
        let peer_name = self.verified_name(stream.get_ref().1.peer_certificates());
        Ok(Stream::tls(stream.into(), peer_name, self.end_point.clone()))
    }

    fn verified_name(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Box<str>> {
        let (certificate, intermediates) = chain?.split_first()?;
        let authorities = self.authorities.as_ref()?;
        authorities.verify_client_cert(certificate, intermediates, UnixTime::now()).ok()?;
        common_name(certificate).map(Box::from)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Puts TLS on connections to servers. Its clones share what [`Connector::renew`] replaces.
#[derive(Clone)]
pub struct Connector {
    mode: TlsMode,
    config: Option<Arc<ArcSwap<ClientConfig>>>,
}

impl Connector {
    /// What the configuration asks for.
    ///
    /// # Errors
    /// Files that are missing, unreadable or do not fit together.
    pub fn new(tls: &ServerTls) -> Result<Self, TlsSetupError> {
        let config = match tls.mode {
            TlsMode::Disable => None,
            _ => Some(Arc::new(ArcSwap::from_pointee(client_config(tls)?))),
        };
        Ok(Connector { mode: tls.mode, config })
    }

    /// No TLS.
    #[cfg(test)]
    pub fn disabled() -> Self {
        Connector { mode: TlsMode::Disable, config: None }
    }

    /// Connections from now on are made as `newer` makes them: of the same mode, from files that may have changed since.
    pub fn renew(&self, newer: &Connector) {
        debug_assert_eq!(self.mode, newer.mode);
        if let (Some(config), Some(newer)) = (&self.config, &newer.config) {
            config.store(newer.load_full());
        }
    }

    /// What is asked of servers.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// The handshake after a server answered an SSLRequest with `S`. A host name is always sent (SNI), whether or not
    /// the certificate must fit it: proxies in front of servers choose by it.
    ///
    /// # Errors
    /// A handshake that fails, or a `host` that is no name and no address.
    pub async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        self.handshake(stream, host, Some(ALPN)).await
    }

    /// The handshake with what speaks HTTP.
    ///
    /// # Errors
    /// As those of [`connect`](Self::connect).
    pub async fn connect_http(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        self.handshake(stream, host, None).await
    }

    async fn handshake(&self, stream: Stream, host: &str, protocol: Option<&[u8]>) -> io::Result<Stream> {
        let config = self.config.as_ref().ok_or_else(|| io::Error::other("TLS is disabled"))?.load_full();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "not a host name that TLS can ask for"))?;
        let socket = stream.into_socket()?;
        let connector = TlsConnector::from(config);
        let offered = protocol.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = Box::pin(connector.with_alpn(offered).connect(name, socket)).await?;
        Ok(Stream::tls(stream.into(), None, None))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?})", self.mode)
    }
}

fn client_config(tls: &ServerTls) -> Result<ClientConfig, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerCheck::new(tls)?));
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert_file), Some(key_file)) => builder
            .with_client_auth_cert(certificates(cert_file)?, key(key_file)?)
            .map_err(|error| file_error(cert_file, pair_error(&error, key_file)))?,
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => return Err(TlsSetupError::Missing("key_file")),
        (None, Some(_)) => return Err(TlsSetupError::Missing("cert_file")),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What is asked of a server's certificate.
#[derive(Debug)]
struct ServerCheck {
    demand: Demand,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Demand {
    /// That there is one: `prefer` and `require`.
    Nothing,
    /// `verify-ca`.
    Authority(Authorities),
    /// `verify-full`.
    AuthorityAndName(Authorities),
}

#[derive(Debug)]
struct Authorities {
    roots: RootCertStore,
    /// The same as they stand in the file: a server's self-signed certificate is often its own authority.
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCheck {
    fn new(tls: &ServerTls) -> Result<Self, TlsSetupError> {
        let authorities = || {
            let file = tls.ca_file.as_deref().ok_or(TlsSetupError::Missing("ca_file"))?;
            Ok(Authorities { roots: roots(file)?, certificates: certificates(file)? })
        };
        let demand = match tls.mode {
            TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => Demand::Nothing,
            TlsMode::VerifyCa => Demand::Authority(authorities()?),
            TlsMode::VerifyFull => Demand::AuthorityAndName(authorities()?),
        };
        Ok(ServerCheck { demand, algorithms: provider().signature_verification_algorithms })
    }

    fn verify_authority(
        &self,
        authorities: &Authorities,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let verified = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &authorities.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match verified {
            // `openssl req -x509` as PostgreSQL's manual has it makes an authority of the server's own certificate.
            // webpki takes none for a server's, whoever trusts it; it says so after it has checked the dates.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if authorities.certificates.contains(certificate) =>
            {
                Ok(())
            }
            verified => verified,
        }
    }
}

/// As libpq: a certificate without alternative names is its common name's. webpki looks at those alone, and the
/// certificates that PostgreSQL's manual makes have none.
///
/// # Source
/// `pq_verify_peer_name_matches_certificate` in `src/interfaces/libpq/fe-secure-common.c`
fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
    match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) if presented.is_empty()
            && common_name(certificate).is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str())) =>
        {
            Ok(())
        }
        verified => verified,
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.demand {
            Demand::Nothing => {}
            Demand::Authority(authorities) => {
                self.verify_authority(authorities, certificate, intermediates, now)?;
            }
            Demand::AuthorityAndName(authorities) => {
                self.verify_authority(authorities, certificate, intermediates, now)?;
                verify_name(certificate, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Asks for a client certificate and lets its owner in whatever it is worth: clients send the one that they happen to
/// have. What it is worth is asked again after the handshake.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn client_verifier(ca_file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsSetupError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_file)?), provider())
        .build()
        .map_err(|error| file_error(ca_file, error.to_string()))
}

fn roots(file: &Path) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| file_error(file, error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(file_error(file, "no certificate in PEM format in it".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(file_error(file, error.to_string())),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let reason = match error {
            Error::Io(error) => error.to_string(),
            Error::NoItemsFound => "no unencrypted private key in PEM format in it".to_owned(),
            // Whatever else a PEM reader says may quote what it read.
            _ => "not a private key in PEM format".to_owned(),
        };
        file_error(file, reason)
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pair_error(error: &rustls::Error, key_file: &Path) -> String {
    format!("cannot be used with the key in {}: {error}", key_file.display())
}

fn file_error(file: &Path, reason: String) -> TlsSetupError {
    TlsSetupError::File { file: file.to_owned(), reason }
}

fn unusable(error: rustls::Error) -> TlsSetupError {
    TlsSetupError::Unusable(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests;

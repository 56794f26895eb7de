//! Handshakes over loopback with certificates made on the spot.

use super::*;
use crate::net::{Arrival, Side};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Files that go away with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pglagoon-net-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority, and what it has signed.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Certificate and key, PEM.
pub(crate) struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn sign(&self, host: &str, common_name: &str) -> Identity {
        self.sign_for(&[host], common_name)
    }

    fn sign_for(&self, hosts: &[&str], common_name: &str) -> Identity {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

impl Folder {
    pub(crate) fn client_tls(&self, mode: TlsMode, identity: &Identity, ca: Option<&Authority>) -> ClientTls {
        ClientTls {
            mode,
            cert_file: Some(self.write("listen.crt", &identity.certificate)),
            key_file: Some(self.write("listen.key", &identity.key)),
            ca_file: ca.map(|ca| self.write("listen-ca.crt", &ca.certificate)),
        }
    }

    pub(crate) fn server_tls(
        &self,
        mode: TlsMode,
        ca: Option<&Authority>,
        ours: Option<&Identity>,
    ) -> ServerTls {
        ServerTls {
            mode,
            ca_file: ca.map(|ca| self.write("server-ca.crt", &ca.certificate)),
            cert_file: ours.map(|ours| self.write("ours.crt", &ours.certificate)),
            key_file: ours.map(|ours| self.write("ours.key", &ours.key)),
        }
    }
}

async fn pair() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (Stream::tcp(accepted, Side::Client).unwrap(), Stream::tcp(connected, Side::Server).unwrap())
}

/// One byte each way over both ends of a handshake; the accepting end, and what either end said instead.
async fn meet(accept: &ClientTls, connect: &ServerTls, host: &str) -> Result<(Stream, Stream), String> {
    let acceptor = Acceptor::new(accept).unwrap().unwrap();
    let connector = Connector::new(connect).unwrap();
    let (server, client) = pair().await;
    let both = async {
        let serve = async {
            let mut server = acceptor.accept(server).await?;
            assert_eq!(server.read_some(&mut [0; 8]).await?, 1);
            server.write_all(b"y").await?;
            io::Result::Ok(server)
        };
        let ask = async {
            let mut client = connector.connect(client, host).await?;
            client.write_all(b"x").await?;
            assert_eq!(client.read_some(&mut [0; 8]).await?, 1);
            io::Result::Ok(client)
        };
        tokio::join!(serve, ask)
    };
    match tokio::time::timeout(Duration::from_secs(10), both).await.unwrap() {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (server, client) => Err(format!("{:?} / {:?}", server.err(), client.err())),
    }
}

#[tokio::test]
async fn each_mode_asks_of_the_server_what_it_says() {
    let (folder, authority, stranger) = (Folder::new(), Authority::new(), Authority::new());
    let accept = folder.client_tls(TlsMode::Require, &authority.sign("localhost", "x"), None);
    let tries = [
        (TlsMode::Prefer, None, "elsewhere", true),
        (TlsMode::Require, None, "elsewhere", true),
        (TlsMode::VerifyCa, Some(&authority), "elsewhere", true),
        (TlsMode::VerifyCa, Some(&stranger), "localhost", false),
        (TlsMode::VerifyFull, Some(&authority), "localhost", true),
        (TlsMode::VerifyFull, Some(&authority), "elsewhere", false),
        (TlsMode::VerifyFull, Some(&authority), "127.0.0.1", false),
        (TlsMode::VerifyFull, Some(&stranger), "localhost", false),
    ];
    for (mode, ca, host, good) in tries {
        let met = meet(&accept, &folder.server_tls(mode, ca, None), host).await;
        assert_eq!(met.is_ok(), good, "{mode:?} {host} {:?}", met.err());
    }
}

#[tokio::test]
async fn a_common_name_counts_where_there_is_no_other() {
    let (folder, authority) = (Folder::new(), Authority::new());
    for (hosts, common_name, good) in [
        (&[][..], "localhost", true),
        (&[], "LocalHost", true),
        (&[], "elsewhere", false),
        (&[], "localhost.elsewhere", false),
        (&["elsewhere"], "localhost", false),
        (&["127.0.0.1"], "localhost", false),
    ] {
        let accept = folder.client_tls(TlsMode::Require, &authority.sign_for(hosts, common_name), None);
        let connect = folder.server_tls(TlsMode::VerifyFull, Some(&authority), None);
        let met = meet(&accept, &connect, "localhost").await;
        assert_eq!(met.is_ok(), good, "{hosts:?} {common_name} {:?}", met.err());
    }
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_authority() {
    let folder = Folder::new();
    let certificate = |until: i32| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    };
    for (identity, host, good) in [
        (certificate(2999), "localhost", true),
        (certificate(2999), "elsewhere", false),
        (certificate(2001), "localhost", false),
    ] {
        let accept = folder.client_tls(TlsMode::Require, &identity, None);
        let mut connect = folder.server_tls(TlsMode::VerifyFull, None, None);
        connect.ca_file = accept.cert_file.clone();
        let met = meet(&accept, &connect, host).await;
        assert_eq!(met.is_ok(), good, "{host} {:?}", met.err());
    }
}

#[tokio::test]
async fn each_mode_asks_of_the_client_what_it_says() {
    let (folder, authority, stranger) = (Folder::new(), Authority::new(), Authority::new());
    let server = authority.sign("localhost", "x");
    let (known, unknown) = (authority.sign("app", "app"), stranger.sign("app", "app"));
    let tries = [
        (TlsMode::Prefer, None, Ok(None)),
        (TlsMode::Require, Some(&known), Ok(Some("app"))),
        (TlsMode::Require, Some(&unknown), Ok(None)),
        (TlsMode::VerifyCa, None, Err(())),
        (TlsMode::VerifyCa, Some(&unknown), Err(())),
        (TlsMode::VerifyFull, Some(&known), Ok(Some("app"))),
    ];
    for (mode, ours, expected) in tries {
        let accept = folder.client_tls(mode, &server, Some(&authority));
        let met = meet(&accept, &folder.server_tls(TlsMode::Require, None, ours), "localhost").await;
        let name = met.as_ref().map(|(server, _)| server.peer_name()).map_err(drop);
        assert_eq!(name, expected, "{mode:?}");
    }
    let accept = folder.client_tls(TlsMode::Require, &server, None);
    let (met, _) =
        meet(&accept, &folder.server_tls(TlsMode::Require, None, Some(&known)), "localhost").await.unwrap();
    assert_eq!(met.peer_name(), None, "nobody vouches for a name without a ca_file");
}

#[tokio::test]
async fn an_encrypted_stream_tells_what_it_is() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let accept = folder.client_tls(TlsMode::Require, &authority.sign("localhost", "x"), None);
    let connect = folder.server_tls(TlsMode::Require, None, None);
    let (mut server, mut client) = meet(&accept, &connect, "localhost").await.unwrap();
    assert!(server.is_tls() && server.alpn() == Some(ALPN));
    assert_eq!(server.tls_info(), client.tls_info());
    assert_eq!(server.tls_info().as_deref(), Some("TLSv1.3/TLS_AES_256_GCM_SHA384"));

    assert_eq!(client.glance(&mut [0; 16]), Arrival::Nothing);
    server.rehome().unwrap();
    client.rehome().unwrap();
    // Two records arrive together; the second is readable without the socket.
    server.write_all(&[1; 20_000]).await.unwrap();
    let (mut seen, mut buffer) = (0, [0; 1000]);
    while seen < 20_000 {
        std::future::poll_fn(|cx| client.poll_readable(cx)).await.unwrap();
        seen += client.read_some(&mut buffer).await.unwrap();
    }
    assert_eq!(client.glance(&mut buffer), Arrival::Nothing);
    server.shutdown().await.unwrap();
    assert_eq!(client.read_some(&mut buffer).await.unwrap(), 0);
    assert_eq!(client.glance(&mut buffer), Arrival::Closed);
}

#[tokio::test]
async fn direct_tls_needs_the_protocol_by_name() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let accept = folder.client_tls(TlsMode::Require, &authority.sign("localhost", "x"), None);
    let acceptor = Acceptor::new(&accept).unwrap().unwrap();
    let connector = Connector::new(&folder.server_tls(TlsMode::Require, None, None)).unwrap();
    for named in [true, false] {
        let (mut server, client) = pair().await;
        let connector = connector.clone();
        let client = tokio::spawn(async move {
            let mut client = match named {
                true => connector.connect(client, "localhost").await?,
                false => connector.connect_http(client, "localhost").await?,
            };
            let mut answer = [0; 1];
            client.write_all(b"x").await?;
            client.read_some(&mut answer).await.map(|_| answer[0])
        });
        let mut first = [0; 64];
        let count = server.read_some(&mut first).await.unwrap();
        assert_eq!(first[0], CLIENT_HELLO);
        let served = acceptor.accept_direct(server, &first[..count]).await;
        assert_eq!(served.is_ok(), named);
        if let Ok(mut server) = served {
            server.read_some(&mut first).await.unwrap();
            server.write_all(b"y").await.unwrap();
            assert_eq!(client.await.unwrap().unwrap(), b'y');
        }
    }
}

#[test]
fn errors_name_the_file_and_never_the_key() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (one, other) = (authority.sign("localhost", "x"), authority.sign("localhost", "x"));
    let tls = |change: &dyn Fn(&mut ClientTls)| {
        let mut tls = folder.client_tls(TlsMode::Require, &one, None);
        change(&mut tls);
        Acceptor::new(&tls).unwrap_err().to_string()
    };
    let missing = tls(&|tls| tls.key_file = Some(folder.path().join("nowhere.key")));
    assert!(missing.contains("nowhere.key: ") && missing.contains("No such file"), "{missing}");
    let broken = "-----BEGIN PRIVATE KEY-----\nverysecret!\n-----END PRIVATE KEY-----\n";
    let broken = tls(&|tls| tls.key_file = Some(folder.write("broken.key", broken)));
    assert!(broken.contains("broken.key: ") && !broken.contains("verysecret"), "{broken}");
    let empty = tls(&|tls| tls.cert_file = Some(folder.write("empty.crt", "")));
    assert!(empty.contains("empty.crt: no certificate"), "{empty}");
    let mixed = tls(&|tls| tls.key_file = Some(folder.write("other.key", &other.key)));
    assert!(mixed.contains("listen.crt: ") && mixed.contains("other.key"), "{mixed}");
    let without = tls(&|tls| tls.mode = TlsMode::VerifyCa);
    assert!(without.contains("ca_file"), "{without}");
}

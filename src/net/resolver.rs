//! From a server's name to its addresses.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::lookup_host;

/// Asks for a name's addresses. Whoever assembles the rooms says where; a test may say what the answer is.
#[derive(Clone)]
pub struct Resolver(Arc<Lookup>);

type Lookup = dyn Fn(String, u16) -> Answer + Send + Sync;
type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl Resolver {
    /// The operating system's: hosts file and name service, as it is configured.
    pub fn system() -> Resolver {
        Self::new(|host, port| async move { Ok(lookup_host((host.as_str(), port)).await?.collect()) })
    }

    /// Asks `lookup`.
    pub fn new<F>(lookup: impl Fn(String, u16) -> F + Send + Sync + 'static) -> Resolver
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Resolver(Arc::new(move |host, port| Box::pin(lookup(host, port))))
    }

    /// All addresses that the name stands for now, best first; an IPv4 address is not written as an IPv6 one.
    ///
    /// # Errors
    /// The name service's.
    pub async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = (self.0)(host.to_owned(), port).await?;
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
            .collect())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

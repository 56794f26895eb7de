//! A server's name comes to stand for another address: pglagoon follows, without being told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pglagoon::auth::ServerCredential;
use pglagoon::backend::command;
use pglagoon::cluster::{Directory, UserPools};
use pglagoon::config::{self, Secret};
use pglagoon::net::Resolver;
use pglagoon::routing::{Route, Why};
use tokio::runtime::Handle;

use crate::harness::{Setup, Stand, eventually_async, quote};

const LIMIT: Duration = Duration::from_secs(10);

/// The port of the server that serves a request, by its own account.
async fn served_by(pools: &UserPools, route: Route) -> Option<String> {
    let mut granted = tokio::time::timeout(LIMIT, pools.lease(&route, 0, Instant::now())).await.ok()?.ok()?;
    let rows = command::run(granted.lease.backend(), "SHOW port", LIMIT).await.ok()?;
    granted.lease.give_back();
    rows.into_iter().flatten().next().flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_stands_for_another_server_is_followed() {
    let stand = Stand::new(|setup| setup);
    let nodes = stand.playground.nodes();
    let address = |place: usize| nodes[place].address().parse::<SocketAddr>().unwrap();
    let port = |place: usize| Some(nodes[place].port().to_string());
    let names = Arc::new(Mutex::new([address(0), address(2)]));
    let known = names.clone();
    let resolver = Resolver::new(move |host, _| {
        let [writer, reader] = *known.lock().unwrap();
        async move { Ok(vec![if host == "writer.test" { writer } else { reader }]) }
    });
    let text = Setup::before(&stand.playground)
        .set("databases.app", "servers", "[\"writer.test:5432\", \"reader.test:5432\"]")
        .set("monitor", "resolve_interval", quote("200ms"))
        .to_toml();
    let config = config::parse(&text, &|_| Err(std::io::ErrorKind::NotFound.into()), 2).expect("good");
    let directory = Directory::new(&config, 1, [7; 16], resolver, Handle::current()).unwrap();
    let database = directory.find("app").unwrap();
    let pools = database.user("app", &ServerCredential::of(Some(&Secret::Plain("secret".into()))));
    let write = Route::primary(Why::Write);
    let read = Route::any_replica(Why::Read);
    eventually_async("it writes there", async || served_by(&pools, write).await == port(0)).await;
    eventually_async("it reads there", async || served_by(&pools, read).await == port(2)).await;

    // A planned change: the old server lives on, connections to it are as good as ever.
    nodes[1].promote().unwrap();
    *names.lock().unwrap() = [address(1), address(2)];
    eventually_async("it writes to the new one", async || served_by(&pools, write).await == port(1)).await;
    for _ in 0..20 {
        assert_eq!(served_by(&pools, write).await, port(1), "the old one is never used again");
    }
    // The other name has not moved.
    assert_ne!(served_by(&pools, read).await, port(0));
}

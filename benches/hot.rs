//! What the pure rooms cost per message, per text and per query, without sockets.
//!
//! ```text
//! cargo bench --bench hot                          times (divan); noisy on a shared machine
//! cargo bench --bench hot -- --allocations         heap allocations per iteration
//! cargo bench --bench hot -- --list                the workloads
//! cargo bench --bench hot -- --count NAME N        runs one workload N times: for a tool that counts instructions
//! cargo bench --bench hot -- --lock THREADS         what leasing and giving back takes under a shared pool's lock
//! benches/count.sh                                 instructions per iteration; the same on every run
//! ```
//!
//! Every workload is warm when it is handed out, and asserts that it took the road that it is named after.

#![allow(unsafe_code, reason = "a global allocator that counts is unsafe to implement; nothing else here is")]
#![allow(clippy::print_stdout, reason = "this is a command")]

use pglagoon::catalog::Builtin;
use pglagoon::config::{Consistency, PoolMode, Routing, Unnamed};
use pglagoon::pool::core::{Asker, Connection, Core, Limits, Placed, Waiter};
use pglagoon::prepared::Registry;
use pglagoon::routing::scope::Scopes;
use pglagoon::routing::{Role, Route};
use pglagoon::session::pin::PinRoom;
use pglagoon::session::{Edit, Edits, Held, Own, Sequences, ServerState, Session, Settings, Want, World};
use pglagoon::sql::{Access, Cache, Catalog, Verdict};
use pglagoon::wire::BackendTag;
use pglagoon::wire::scan::{HEADER, Scanner, Step};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => NAMES.iter().for_each(|name| println!("{name}")),
        ["--allocations"] => NAMES.iter().for_each(|name| print_allocations(name)),
        ["--count", name, times] => count(name, times.parse().expect("how many times")),
        ["--lock", threads] => lock(threads.parse().expect("how many threads")),
        _ => divan::main(),
    }
}

#[divan::bench(args = NAMES)]
fn hot(bencher: divan::Bencher, name: &str) {
    bencher.bench_local(workload(name));
}

fn count(name: &str, times: usize) {
    let mut run = workload(name);
    (0..times).for_each(|_| run());
}

fn print_allocations(name: &str) {
    const TIMES: u64 = 1_000;
    let mut run = workload(name);
    let before = (ALLOCATIONS.load(Relaxed), ALLOCATED.load(Relaxed));
    (0..TIMES).for_each(|_| run());
    let allocations = (ALLOCATIONS.load(Relaxed) - before.0) as f64 / TIMES as f64;
    let bytes = (ALLOCATED.load(Relaxed) - before.1) as f64 / TIMES as f64;
    println!("{name:24} {allocations:8.2} allocations {bytes:10.1} bytes");
}

// --- The workloads -----------------------------------------------------------------------------------------------------

const NAMES: [&str; 13] = [
    "scan_rows_16k",
    "look_up_pgbench",
    "look_up_orm",
    "classify_pgbench",
    "classify_orm",
    "session_simple",
    "session_extended",
    "session_prepared",
    "session_in_block",
    "session_orm_simple",
    "session_orm_prepared",
    "session_rows_16k",
    "pool_lease_put",
];

type Run = Box<dyn FnMut()>;

fn workload(name: &str) -> Run {
    let mut run = match name {
        "scan_rows_16k" => scan(),
        "look_up_pgbench" => look_up(PGBENCH),
        "look_up_orm" => look_up(ORM),
        "classify_pgbench" => classify(PGBENCH),
        "classify_orm" => classify(ORM),
        "session_simple" => conversation(Protocol::Simple, PGBENCH, "SELECT 1", &row(10)),
        "session_extended" => conversation(Protocol::Extended, PGBENCH_WITH_PARAMETER, "SELECT 1", &row(10)),
        "session_prepared" => conversation(Protocol::Prepared, PGBENCH_WITH_PARAMETER, "SELECT 1", &row(10)),
        "session_in_block" => in_block(),
        "session_orm_simple" => conversation(Protocol::Simple, ORM, "SELECT 1", &row(100)),
        "session_orm_prepared" => conversation(Protocol::Prepared, ORM, "SELECT 1", &row(100)),
        "session_rows_16k" => rows(),
        "pool_lease_put" => pool(),
        _ => panic!("no such workload: {name}; --list tells which there are"),
    };
    (0..100).for_each(|_| run());
    run
}

const PGBENCH: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;";
const PGBENCH_WITH_PARAMETER: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

/// 300 bytes, as an object-relational mapper writes them.
const ORM: &str = r#"SELECT "users"."id", "users"."email", "users"."name", "users"."created_at", "users"."updated_at" FROM "users" INNER JOIN "memberships" ON "memberships"."user_id" = "users"."id" WHERE "memberships"."team_id" = 42 AND "users"."deleted_at" IS NULL AND "users"."locked" = FALSE ORDER BY "users"."id" LIMIT 21"#;

/// The framing alone, of what fills the largest buffer of the relay with rows of a hundred bytes.
fn scan() -> Run {
    let buffer = row(100).repeat(16 * 1024 / row(100).len());
    Box::new(move || {
        let mut scanner = Scanner::<BackendTag>::default();
        let (mut at, mut rows) = (0, 0);
        while let Ok(step @ Step::Message(span)) = scanner.step(&black_box(&buffer)[at..]) {
            rows += usize::from(span.tag() == BackendTag::DATA_ROW);
            at += span.have();
            scanner.pass(&step);
        }
        assert_eq!(rows, buffer.len() / (HEADER + 106));
    })
}

fn look_up(text: &'static str) -> Run {
    let (mut cache, tables) = (cache(), Tables::default());
    Box::new(move || assert_eq!(cache.look_up(black_box(text.as_bytes()), &tables).access, Access::Read))
}

/// Cold: the catalog is another one each time, so nothing is remembered.
fn classify(text: &'static str) -> Run {
    let (mut cache, tables) = (cache(), Tables::default());
    Box::new(move || {
        tables.version.set(tables.version.get() + 1);
        assert_eq!(cache.look_up(black_box(text.as_bytes()), &tables).access, Access::Read);
    })
}

#[derive(Clone, Copy)]
enum Protocol {
    /// Query.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync, all without names.
    Extended,
    /// Bind, Execute, Sync of a statement that was prepared before.
    Prepared,
}

/// One request, its answer with one row, and nothing between them that a server connection is kept for: leased, given back.
fn conversation(protocol: Protocol, text: &str, command: &str, rows: &[u8]) -> Run {
    let mut client = Client::new();
    let complete = message(b'C', &[command.as_bytes(), b"\0"].concat());
    let (request, answer) = match protocol {
        Protocol::Simple => (query(text), [&description(), rows, &complete, &ready(b'I')].concat()),
        Protocol::Extended => (
            [parse("", text), bind(""), message(b'D', b"P\0"), execute(), message(b'S', b"")].concat(),
            [&message(b'1', b""), &message(b'2', b""), &description()[..], rows, &complete, &ready(b'I')]
                .concat(),
        ),
        Protocol::Prepared => {
            let prepare = [parse("s1", text), message(b'S', b"")].concat();
            client.exchange(&prepare, &[message(b'1', b""), ready(b'I')].concat());
            (
                [bind("s1"), execute(), message(b'S', b"")].concat(),
                [&message(b'2', b"")[..], rows, &complete, &ready(b'I')].concat(),
            )
        }
    };
    Box::new(move || client.exchange(black_box(&request), black_box(&answer)))
}

/// A simple query inside a transaction block: the server connection is held already.
fn in_block() -> Run {
    let mut client = Client::new();
    let request = query(PGBENCH);
    let begun = [message(b'C', b"BEGIN\0"), ready(b'T')].concat();
    let answer = [description(), row(10), message(b'C', b"SELECT 1\0"), ready(b'T')].concat();
    // BEGIN waits for the first statement.
    assert_eq!(client.ask(&query("BEGIN")), Want::Input);
    assert!(matches!(client.ask(&request), Want::Lease(Route::Primary { .. })));
    client.session.on_leased();
    client.role = Role::Primary;
    assert_eq!(client.send(&request), Want::Input);
    assert_eq!(client.answer(&[begun, answer.clone()].concat()), Want::Input);
    Box::new(move || {
        assert_eq!(client.send(black_box(&request)), Want::Input);
        assert_eq!(client.answer(black_box(&answer)), Want::Input);
    })
}

/// A buffer full of rows on its way to the client, in the middle of a long answer.
fn rows() -> Run {
    let mut client = Client::new();
    assert!(matches!(client.ask(&query(PGBENCH)), Want::Lease(_)));
    client.session.on_leased();
    assert_eq!(client.send(&query(PGBENCH)), Want::Input);
    let rows = row(100).repeat(16 * 1024 / row(100).len());
    Box::new(move || assert_eq!(client.answer(black_box(&rows)), Want::Input))
}

/// Each thread leases and gives back as fast as it can: what benches/width.py takes a queue at the lock to be made of.
fn lock(threads: usize) {
    const TIMES: u32 = 1_000_000;
    let (core, now) = (Mutex::new(full()), Instant::now());
    let lease = |home| core.lock().expect("nobody panics").lease(Asker { home, drawer: None });
    std::thread::scope(|scope| {
        for home in 0..threads {
            let (core, lease) = (&core, &lease);
            scope.spawn(move || {
                for _ in 0..TIMES {
                    let connection = lease(home).expect("more are idle than threads ask");
                    assert!(matches!(
                        core.lock().expect("nobody panics").put(connection, now, None),
                        Placed::Parked
                    ));
                }
            });
        }
    });
    let each = now.elapsed() / (TIMES * threads as u32);
    println!("{threads} threads: {each:?} for each lease and return");
}

/// A pool of twenty with ten idle connections at home on two workers.
fn pool() -> Run {
    let (mut core, now) = (full(), Instant::now());
    let mut home = 0;
    Box::new(move || {
        home = 1 - home;
        let connection = core.lease(black_box(Asker { home, drawer: None })).expect("ten are idle");
        assert!(matches!(core.put(connection, now, None), Placed::Parked));
    })
}

fn full() -> Core<Box<Idle>, Nobody> {
    let limits = Limits {
        size: 20,
        reserve: 0,
        reserve_after: Duration::from_secs(5),
        min_size: 0,
        max_waiting: 100,
        max_logins: 20,
        idle_timeout: Some(Duration::from_secs(600)),
        lifetime: Some(Duration::from_secs(3600)),
    };
    let now = Instant::now();
    let mut core: Core<Box<Idle>, Nobody> = Core::new(limits);
    for home in 0..10 {
        assert!(core.wait(Nobody, now, now + limits.lifetime.unwrap_or_default()).is_ok());
        assert_eq!(core.wanted_logins(now).logins, 1);
        core.begin_logins(1);
        let Placed::Hand(..) = core.logged_in(Box::new(Idle { home: home % 2, since: now }), now, None)
        else {
            panic!("nobody waits")
        };
    }
    for home in 0..10 {
        assert!(matches!(core.put(Box::new(Idle { home: home % 2, since: now }), now, None), Placed::Parked));
    }
    core
}

struct Idle {
    home: usize,
    since: Instant,
}

impl Connection for Box<Idle> {
    fn number(&self) -> u64 {
        1
    }

    fn home(&self) -> usize {
        self.home
    }

    fn drawer(&self) -> Option<u64> {
        None
    }

    fn expires(&self, lifetime: Option<Duration>) -> Option<Instant> {
        lifetime.map(|lifetime| self.since + lifetime)
    }

    fn is_quiet(&mut self) -> bool {
        true
    }
}

struct Nobody;

impl Waiter for Nobody {
    fn is_gone(&self) -> bool {
        false
    }
}

// --- A client and its server -------------------------------------------------------------------------------------------

/// A session with all that the relay brings along.
struct Client {
    session: Session,
    server: ServerState,
    role: Role,
    cache: Cache,
    registry: Registry,
    tables: Tables,
    rules: Routing,
    scopes: Scopes,
    edits: Edits,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        let mut server = ServerState::new(200);
        // The last client's, which were the same, but are not shared with this one.
        server.settings = settings();
        Client {
            session: Session::new(PoolMode::Transaction, settings(), Own::default()),
            server,
            role: Role::Replica,
            cache: cache(),
            registry: Registry::new(1_000, KEY),
            tables: Tables::default(),
            rules: Routing {
                consistency: Consistency::Sticky,
                sticky_window: Duration::from_secs(1),
                ..Routing::default()
            },
            scopes: Scopes::default(),
            edits: Edits::default(),
            now: Instant::now(),
        }
    }

    /// A request, a lease, the request again, the answer, the end of the lease.
    fn exchange(&mut self, request: &[u8], answer: &[u8]) {
        assert!(matches!(self.ask(request), Want::Lease(Route::Replica { .. })));
        self.session.on_leased();
        assert_eq!(self.send(request), Want::Input);
        assert_eq!(self.answer(answer), Want::Return);
        assert!(self.session.owed().is_nothing());
    }

    fn ask(&mut self, request: &[u8]) -> Want {
        self.on_client(request, Lease::None)
    }

    fn send(&mut self, request: &[u8]) -> Want {
        let want = self.on_client(request, Lease::Held);
        assert_eq!(self.edits.consumed(), request.len());
        self.carry_out(request);
        want
    }

    fn on_client(&mut self, request: &[u8], lease: Lease) -> Want {
        let held = match lease {
            Lease::None => None,
            Lease::Held => Some(Held { role: self.role, node: 0, state: &mut self.server }),
        };
        let mut world = World {
            now: self.now,
            rules: &self.rules,
            level: self.rules.consistency,
            lineage: None,
            servers: &(),
            scopes: &self.scopes,
            secret: b"secret",
            catalog: &self.tables,
            generation: 0,
            classifier: &mut self.cache,
            registry: &mut self.registry,
            max_message: 1 << 20,
            client: 1,
            pin_room: PinRoom::Open,
            sequences: Sequences::Unused,
            unnamed: Unnamed::Keep,
        };
        self.session.on_client(request, held, &mut world, &mut self.edits)
    }

    fn answer(&mut self, answer: &[u8]) -> Want {
        let mut held = Held { role: self.role, node: 0, state: &mut self.server };
        let want = self.session.on_backend(answer, &mut held, &mut self.registry, self.now, &mut self.edits);
        assert_eq!(self.edits.consumed(), answer.len());
        self.carry_out(answer);
        want
    }

    /// What the relay would write, but not written.
    fn carry_out(&self, input: &[u8]) {
        match self.edits.single_forward() {
            Some(run) => black_box(input[run].len()),
            None => self.edits.iter().filter(|edit| black_box(matches!(edit, Edit::Insert(_)))).count(),
        };
    }
}

enum Lease {
    None,
    Held,
}

fn settings() -> Settings {
    let pairs = [("application_name", "app"), ("client_encoding", "UTF8"), ("datestyle", "ISO, MDY")];
    Settings::from_startup(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

fn cache() -> Cache {
    Cache::new(1_000, KEY)
}

const KEY: [u8; 16] = [7; 16];

/// A database with PostgreSQL's own functions and every table that anybody asks for.
#[derive(Default)]
struct Tables {
    version: Cell<u64>,
}

impl Catalog for Tables {
    fn function(&self, schema: Option<&str>, name: &str) -> Verdict {
        Builtin.function(schema, name)
    }

    fn relation(&self, _: Option<&str>, _: &str) -> Verdict {
        Verdict::Harmless
    }

    fn operator(&self, symbol: &str) -> Verdict {
        Builtin.operator(symbol)
    }

    fn attribute(&self, name: &str) -> Verdict {
        Builtin.attribute(name)
    }

    fn type_name(&self, schema: Option<&str>, name: &str) -> Verdict {
        Builtin.type_name(schema, name)
    }

    fn version(&self) -> u64 {
        self.version.get()
    }
}

// --- Messages ----------------------------------------------------------------------------------------------------------

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

/// Of the unnamed portal, with one parameter.
fn bind(statement: &str) -> Vec<u8> {
    message(b'B', &[b"\0", statement.as_bytes(), b"\0\0\0\0\x01\0\0\0\x044711\0\0"].concat())
}

fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

/// Of one column of type int4.
fn description() -> Vec<u8> {
    message(b'T', b"\0\x01abalance\0\0\0\0\x01\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
}

/// A DataRow of one column of so many bytes.
fn row(width: u8) -> Vec<u8> {
    message(b'D', &[&[0, 1, 0, 0, 0, width], &vec![b'x'; usize::from(width)][..]].concat())
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

// --- Counting allocations ----------------------------------------------------------------------------------------------

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED.fetch_add(layout.size() as u64, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED.fetch_add(size as u64, Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

//! Services: loading them, changing one, and asking for a backend, with few and with many.
//!
//! Loading is all that comes after parsing: checking the objects against one another, compiling, publishing. A change
//! is the same for one Service among all, after its file has been parsed. What a decision costs is asked of the table
//! alone; what a packet costs beside it is `memory`'s.

mod cluster;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use millrace::daemon::compile::services::ServiceCompiler;
use millrace::objects::{Folder, Store};
use millrace_dataplane::table::service::{Caller, Decision, Query};
use millrace_dataplane::table::{AffinityTable, HashKey, NodeTables, Publisher, ServiceTable, Tick};
use millrace_dataplane::wire::IpProtocol;
use serde_json::{Map, Value};

use crate::measure::{measured, ms, nanoseconds};
use crate::statistics::{median, rounded};
use crate::summary;

/// Numbers of Services measured.
const SERVICES: [u32; 2] = [10, 10_000];
/// Connections asked for in one lap.
const CONNECTIONS: u32 = 65_536;

/// How Services are measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Services whose endpoints are moved, one after another
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(5..))]
    changes: u32,
    /// Laps of 65,536 decisions
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(5..))]
    laps: u32,
}

/// The table of so many Services, compiled from their manifests, and the cluster IP of each.
pub(crate) fn compiled(services: u32) -> anyhow::Result<(Arc<ServiceTable>, impl Fn(u32) -> Ipv4Addr)> {
    let mut bench = Bench::new(services)?;
    bench.load()?;
    Ok((Arc::clone(bench.compiler.table()), cluster::cluster_ip))
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When Services do not come out as they went in, or a decision allocates.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    let mut figures = Map::new();
    for services in SERVICES {
        let mut bench = Bench::new(services)?;
        let loaded = bench.load()?;
        let changed = bench.change(options.changes)?;
        let decided = bench.decide(options.laps)?;
        for (name, value) in [loaded, changed, decided].into_iter().flatten() {
            println!("{services:>6} services  {name:<28}{value:>16}");
            figures.insert(format!("services/{services}/{name}"), value);
        }
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

type Figures = Vec<(&'static str, Value)>;

struct Bench {
    services: u32,
    /// Kept, as it is removed when dropped.
    _temporary: tempfile::TempDir,
    folder: Folder,
    store: Store,
    compiler: ServiceCompiler,
    publisher: Publisher<NodeTables>,
}

impl Bench {
    fn new(services: u32) -> anyhow::Result<Self> {
        let temporary = tempfile::tempdir().context("making a folder for manifests")?;
        cluster::write_manifests(temporary.path(), services)?;
        let config = cluster::config()?;
        Ok(Self {
            services,
            folder: Folder::new(temporary.path()),
            _temporary: temporary,
            store: Store::build(&config.node.name, Vec::new(), Vec::new()),
            compiler: ServiceCompiler::new(&config.services, HashKey::random(), 2),
            publisher: Publisher::new(NodeTables::default()),
        })
    }

    /// From a folder of manifests to the workers.
    fn load(&mut self) -> anyhow::Result<Figures> {
        let parsing = Instant::now();
        self.folder.scan();
        let parsing = parsing.elapsed();
        let loading = Instant::now();
        let (store, of_store) = measured(|| self.folder.store(self.store.own_name(), &[]));
        self.store = store;
        let ((), of_compiler) = measured(|| self.compile());
        self.publish();
        let loading = loading.elapsed();
        ensure!(
            self.compiler.table().len() == self.services as usize,
            "{} of {} Services were compiled: {:?}",
            self.compiler.table().len(),
            self.services,
            self.store.notices().first()
        );
        let backends = self.compiler.take_changes().backends.len();
        ensure!(
            backends == usize::try_from(self.services * cluster::ENDPOINTS)?,
            "{backends} backends"
        );
        let memory = self.compiler.memory();
        Ok(vec![
            ("parse_ms", milliseconds(parsing)),
            ("load_ms", milliseconds(loading)),
            ("table_bytes", memory.table.into()),
            ("services_bytes", memory.services.into()),
            ("lookup_tables_bytes", memory.lookup_tables.into()),
            ("compiler_bytes", of_compiler.bytes_current.into()),
            ("store_bytes", of_store.bytes_current.into()),
        ])
    }

    /// One Service changed after another, each to the workers.
    fn change(&mut self, changes: u32) -> anyhow::Result<Figures> {
        let files = self.services.div_ceil(64);
        let (mut parsing, mut storing, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for change in 0..changes {
            let path = self.folder.path().to_owned();
            cluster::write_file(&path, self.services, change % files, 1 + change / files)?;
            let start = Instant::now();
            ensure!(self.folder.scan(), "a change was not seen");
            parsing.push(nanoseconds(start.elapsed()));
            let start = Instant::now();
            let store = self.folder.store(self.store.own_name(), &[]);
            // As whoever watches the folder does, to tell whether anything changed.
            ensure!(store != self.store, "a change came to nothing");
            self.store = store;
            storing.push(nanoseconds(start.elapsed()));
            self.compile();
            self.publish();
            all.push(nanoseconds(start.elapsed()));
            let subjects = self.compiler.take_changes().backends.len();
            let most = usize::try_from(2 * cluster::ENDPOINTS)?;
            ensure!(
                (1..=most).contains(&subjects),
                "one Service changed, and {subjects} backends"
            );
        }
        let worst = all.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            ("change_parse_ms", ms(median(&parsing))),
            ("change_store_ms", ms(median(&storing))),
            ("change_ms", ms(median(&all))),
            ("change_worst_ms", ms(worst)),
        ])
    }

    /// Backends for new connections of many clients to many Services.
    fn decide(&self, laps: u32) -> anyhow::Result<Figures> {
        let key = HashKey::random();
        let queries: Vec<Query> = (0..CONNECTIONS).map(|number| self.query(&key, number)).collect();
        let (affinity, now) = (AffinityTable::new(16), Tick::from_seconds(1));
        let table = self.compiler.table();
        let mut nanoseconds_each = Vec::new();
        let mut allocations = 0;
        for _ in 0..laps {
            let start = Instant::now();
            let (chosen, info) = measured(|| {
                let decisions = queries
                    .iter()
                    .map(|query| table.balance(black_box(query), &affinity, now));
                decisions
                    .filter(|decision| matches!(decision, Decision::Backend(_)))
                    .count()
            });
            nanoseconds_each.push(nanoseconds(start.elapsed()) / f64::from(CONNECTIONS));
            allocations += info.count_total;
            ensure!(
                chosen == queries.len(),
                "{chosen} of {} were given a backend",
                queries.len()
            );
        }
        if allocations > 0 {
            bail!("a decision must not allocate");
        }
        Ok(vec![(
            "decision_ns",
            rounded(median(&nanoseconds_each), 1).into(),
        )])
    }

    fn query(&self, key: &HashKey, number: u32) -> Query {
        let random = key.hash([u64::from(number)]);
        // INVARIANT: all are cut to what they stand for.
        #[allow(clippy::cast_possible_truncation)]
        let (service, client, port) = (
            (random >> 32) as u32 % self.services,
            random as u32 & 0xffff,
            (random >> 16) as u16,
        );
        Query {
            source: IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 | client)),
            destination: IpAddr::V4(cluster::cluster_ip(service)),
            protocol: IpProtocol::TCP,
            source_port: port,
            destination_port: 80,
            caller: Caller::LocalPod,
            from_pods: true,
        }
    }

    fn compile(&mut self) {
        cluster::inputs(&self.store, |inputs| self.compiler.update(inputs));
    }

    fn publish(&mut self) {
        self.publisher.publish(NodeTables {
            services: Arc::clone(self.compiler.table()),
            ..NodeTables::default()
        });
    }
}

fn milliseconds(duration: Duration) -> Value {
    ms(nanoseconds(duration))
}

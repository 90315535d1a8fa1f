//! Policies: compiling those of a large cluster, changing one thing of it, and judging connections.
//!
//! A change is all that comes after its file has been parsed: checking the objects against one another, compiling,
//! publishing. What a judgement costs is asked of the table alone; it is made once for each connection.

mod cluster;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use millrace::daemon::compile::policies::{PolicyCompiler, PolicyInputs};
use millrace::objects::{Folder, NodeName, Store};
use millrace_dataplane::table::policy::{Query, Ruling};
use millrace_dataplane::table::{HashKey, NodeTables, Publisher};
use millrace_dataplane::wire::IpProtocol;
use serde_json::{Map, Value};

use crate::measure::{measured, ms, nanoseconds};
use crate::statistics::{median, rounded};
use crate::summary;

/// Connections judged in one lap.
const CONNECTIONS: u32 = 65_536;

/// How policies are measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pods whose labels are changed, one after another; and so with everything else
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..))]
    changes: u32,
    /// Laps of 65,536 judgements
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..))]
    laps: u32,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When policies do not come out as they went in, or a judgement allocates.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    println!(
        "{} pods, {} Namespaces, {} policies",
        cluster::PODS,
        cluster::NAMESPACES,
        cluster::POLICIES
    );
    let mut bench = Bench::new()?;
    let mut all = bench.rebuild(options.changes.min(10))?;
    all.extend(bench.changes(options.changes)?);
    // The same pod with few rules, then with many: those of others are there all the time.
    let pod = cluster::many_rules_pod();
    all.push(bench.judge("few_rules", pod, 0, options.laps)?);
    cluster::write_many_rules(bench.folder.path())?;
    bench.folder.scan();
    bench.update();
    let rules = bench.rules_of(pod);
    ensure!(
        rules > cluster::MANY_RULES as usize,
        "a pod with many rules has {rules}"
    );
    all.push(bench.judge("many_rules", pod, 0, options.laps)?);
    all.push(bench.judge("many_rules_hit", pod, 1, options.laps)?);
    let mut figures = Map::new();
    for (name, value) in all {
        println!("{name:<32}{value:>16}");
        figures.insert(format!("policies/{name}"), value);
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

type Figure = (String, Value);

struct Bench {
    /// Kept, as it is removed when dropped.
    _temporary: tempfile::TempDir,
    folder: Folder,
    own: NodeName,
    store: Store,
    compiler: PolicyCompiler,
    publisher: Publisher<NodeTables>,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let temporary = tempfile::tempdir().context("making a folder for manifests")?;
        cluster::write_manifests(temporary.path())?;
        let mut folder = Folder::new(temporary.path());
        folder.scan();
        let own = NodeName::new("node-0")?;
        let store = folder.store(&own, &[]);
        let refused = store.refusals().next();
        ensure!(refused.is_none(), "{refused:?}");
        ensure!(
            store.policies().len() == cluster::POLICIES as usize,
            "{} policies were read",
            store.policies().len()
        );
        Ok(Self {
            folder,
            _temporary: temporary,
            own,
            store,
            compiler: PolicyCompiler::new(HashKey::random(), 2),
            publisher: Publisher::new(NodeTables::default()),
        })
    }

    /// Everything anew, from the store to the workers.
    fn rebuild(&mut self, times: u32) -> anyhow::Result<Vec<Figure>> {
        let mut times_ns = Vec::new();
        let mut bytes = 0;
        for _ in 0..times {
            let start = Instant::now();
            let ((), info) = measured(|| {
                let mut compiler = PolicyCompiler::new(HashKey::random(), 2);
                std::mem::swap(&mut compiler, &mut self.compiler);
                self.compile();
                // What was there before is kept, or it would be taken off what this one takes.
                std::mem::forget(compiler);
            });
            self.publish();
            times_ns.push(nanoseconds(start.elapsed()));
            bytes = info.bytes_current;
        }
        let memory = self.compiler.memory();
        ensure!(memory.rule_sets > 0, "nothing was compiled");
        Ok(vec![
            figure("rebuild_ms", ms(median(&times_ns))),
            figure("bytes", bytes.into()),
            figure("table_bytes", memory.table.into()),
            figure("rule_sets", memory.rule_sets.into()),
            figure("identities", memory.identities.into()),
            figure("selectors", memory.selectors.into()),
        ])
    }

    /// One thing changed after another, each to the workers.
    fn changes(&mut self, changes: u32) -> anyhow::Result<Vec<Figure>> {
        let files = cluster::PODS / 50;
        let mut figures = Vec::new();
        figures.extend(self.change("label", changes, |folder, change| {
            cluster::write_pods(folder, change % files, 500 * (1 + change / files))
        })?);
        let gone = |folder: &Path| folder.join("new-pod.yaml");
        figures.extend(self.change("new_pod", changes, |folder, change| {
            if change % 2 == 1 {
                return std::fs::remove_file(gone(folder)).context("removing a pod");
            }
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: new-{change}, namespace: space-3, labels: {{app: app-0, tier: tier-1, pod-name: new-{change}}}}}, spec: {{nodeName: node-0}}, status: {{podIP: 10.244.0.253}}}}\n"
            );
            std::fs::write(gone(folder), text).context("writing a pod")
        })?);
        figures.extend(self.change("policy", changes, |folder, change| {
            cluster::write_policies(folder, 1 + change)
        })?);
        Ok(figures)
    }

    fn change(
        &mut self,
        what: &str,
        changes: u32,
        write: impl Fn(&Path, u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Figure>> {
        let (mut checking, mut compiling, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for change in 0..changes {
            write(self.folder.path(), change)?;
            ensure!(self.folder.scan(), "a change was not seen");
            let _ = self.compiler.take_changes();
            let start = Instant::now();
            let (check, compile) = self.update();
            checking.push(nanoseconds(check));
            compiling.push(nanoseconds(compile));
            all.push(nanoseconds(start.elapsed()));
            ensure!(
                !self.compiler.take_changes().is_empty() || what == "label",
                "{what}: a change concerned nobody"
            );
        }
        let worst = all.iter().copied().fold(0.0, f64::max);
        Ok(vec![
            figure(&format!("{what}_check_ms"), ms(median(&checking))),
            figure(&format!("{what}_compile_ms"), ms(median(&compiling))),
            figure(&format!("{what}_ms"), ms(median(&all))),
            figure(&format!("{what}_worst_ms"), ms(worst)),
        ])
    }

    /// New connections to a pod, from pods and from elsewhere, to ports that rules name and others; with `hits` of them
    /// such that a rule allows them, else all such that the very last one decides.
    fn judge(&self, name: &str, pod: u32, hits: u32, laps: u32) -> anyhow::Result<Figure> {
        let key = HashKey::random();
        let queries: Vec<Query> = (0..CONNECTIONS)
            .map(|number| query(&key, number, pod, hits))
            .collect();
        let table = self.compiler.table();
        let mut nanoseconds_each = Vec::new();
        for _ in 0..laps {
            let start = Instant::now();
            let (denied, info) = measured(|| {
                let judged = queries.iter().map(|query| table.judge(black_box(query)));
                judged
                    .filter(|judgement| matches!(judgement.ingress, Ruling::Deny(_)))
                    .count()
            });
            nanoseconds_each.push(nanoseconds(start.elapsed()) / f64::from(CONNECTIONS));
            ensure!(info.count_total == 0, "a judgement must not allocate");
            ensure!(denied > 0 || hits > 0, "nothing was denied");
        }
        Ok(figure(
            &format!("{name}_judgement_ns"),
            rounded(median(&nanoseconds_each), 1).into(),
        ))
    }

    /// How many rules a pod has for what it is sent.
    fn rules_of(&self, pod: u32) -> usize {
        let address = IpAddr::V4(cluster::address(pod));
        let port = cluster::ports(&self.store)
            .into_iter()
            .find(|port| port.addresses.contains(&address));
        let policies = port.and_then(|port| self.compiler.table().policies(port.id));
        policies
            .and_then(|policies| policies.ingress.as_ref())
            .map_or(0, |rules| rules.rules().len())
    }

    /// From the folder's newest state to the workers; answers how long checking the objects against one another took, and
    /// compiling.
    fn update(&mut self) -> (Duration, Duration) {
        let start = Instant::now();
        self.store = self.folder.store(&self.own, &[]);
        let checking = start.elapsed();
        self.compile();
        let compiling = start.elapsed() - checking;
        self.publish();
        (checking, compiling)
    }

    fn compile(&mut self) {
        self.compiler.update(&PolicyInputs {
            store: &self.store,
            ports: &cluster::ports(&self.store),
            node_addresses: &cluster::node_addresses(),
        });
    }

    fn publish(&mut self) {
        self.publisher.publish(NodeTables {
            policies: Arc::clone(self.compiler.table()),
            ..NodeTables::default()
        });
    }
}

fn query(key: &HashKey, number: u32, pod: u32, hits: u32) -> Query {
    let random = key.hash([u64::from(number)]);
    // INVARIANT: all are cut to what they stand for.
    #[allow(clippy::cast_possible_truncation)]
    let (source, port) = ((random >> 32) as u32, random as u16);
    let source = match (hits, source % 3) {
        // The blocks of the rules that name ports, and what their exceptions leave.
        (1.., _) | (0, 0) => Ipv4Addr::from_bits(0x0a00_0000 | source & 0x00ff_ffff),
        (0, 1) => cluster::address(source % cluster::PODS),
        (0, _) => Ipv4Addr::from_bits(source),
    };
    Query {
        source: IpAddr::V4(source),
        destination: IpAddr::V4(cluster::address(pod)),
        protocol: IpProtocol::TCP,
        port,
    }
}

fn figure(name: &str, value: Value) -> Figure {
    (name.to_owned(), value)
}

//! The six verbs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde_json::json;

use crate::call::{Call, Command, Variable};
use crate::config::{Config, Version, version_text};
use crate::daemon::{Daemon, DaemonError, NodeFacts};
use crate::error::{
    CniError, INVALID_CONFIG, IO_FAILURE, LIMITED_CONNECTIVITY, NOT_AS_MADE, NOT_AVAILABLE, REFUSED,
    TRY_AGAIN_LATER,
};
use crate::link::remove_within;
use crate::network;
use crate::report;
use crate::store::disk::Folder;
use crate::store::{Owner, Pools, Record, Store, StoreError, Wish};

/// Which boot of the machine this is (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Namespaces that go by a process's number may be another container's by now.
const PROCESSES: &str = "/proc";

/// Does what the environment and the configuration ask for; what is to be printed, or the error with the version that it is
/// to be told in.
///
/// # Errors
/// [`CniError`]
pub fn answer(variable: Variable<'_>, input: &[u8]) -> Result<String, (CniError, String)> {
    let version = version_text(input);
    let done = Call::read(variable).and_then(|call| {
        if call.command == Command::Version {
            return Ok(versions(&version));
        }
        let config = Config::read(input, call.command)?;
        match call.command {
            Command::Add => add(&call, &config),
            Command::Del => del(&call, &config).map(|()| String::new()),
            Command::Check => check(&call, &config).map(|()| String::new()),
            Command::Gc => gc(&config).map(|()| String::new()),
            Command::Status => status(&config).map(|()| String::new()),
            Command::Version => Ok(versions(&version)),
        }
    });
    done.map_err(|error| (error, version))
}

fn versions(asked: &str) -> String {
    let own = Version::NEWEST.text();
    let version = if asked.is_empty() { own } else { asked };
    let supported = Version::ALL.map(Version::text);
    format!(
        "{}\n",
        json!({"cniVersion": version, "supportedVersions": supported})
    )
}

/// Addresses first, then the interface. A kill in between leaves what DEL takes away.
fn add(call: &Call, config: &Config) -> Result<String, CniError> {
    let netns = call.netns.as_deref().unwrap_or(Path::new(""));
    if !netns.exists() {
        let msg = format!("CNI_NETNS is {}, which is not there", netns.display());
        return Err(CniError::new(crate::error::INVALID_ENVIRONMENT, msg));
    }
    if let Some(network) = config.second {
        return network::add(call, config, network, netns);
    }
    let daemon = Daemon::of(config);
    let facts = daemon.node_facts().map_err(from_daemon)?;
    if facts.mtu.is_none() {
        let msg = "the node's uplink is gone, so the pods' MTU is not known";
        return Err(CniError::new(TRY_AGAIN_LATER, msg));
    }
    let pools = pools(&facts)?;
    let made = with_addresses(call, config, (netns, &pools), |addresses| {
        daemon.attach(call, config, addresses)
    })?;
    Ok(format!(
        "{}\n",
        report::result(call, config, &made, facts.dns.as_ref())
    ))
}

/// Reserves addresses and has the interface made that bears them; where it cannot be made they are free again.
pub(crate) fn with_addresses<T>(
    call: &Call,
    config: &Config,
    (netns, pools): (&Path, &Pools),
    make: impl FnOnce(&[IpAddr]) -> Result<T, DaemonError>,
) -> Result<T, CniError> {
    let owner = owner(&config.network, &call.container, &call.interface);
    let blank = Record {
        owner: owner.clone(),
        pod: call.pod.clone(),
        netns: netns.display().to_string(),
        addresses: Vec::new(),
        boot: String::new(),
    };
    let wish = Wish {
        pools,
        addresses: &config.ips,
    };
    let (record, is_new) = open(config)?.reserve(blank, wish).map_err(from_store)?;
    make(&record.addresses).map_err(|error| {
        // Not if it is away: it may have made the interface.
        if is_new
            && !matches!(error, DaemonError::Away { .. })
            && let Err(error) = open(config).and_then(|mut store| store.release(&owner).map_err(from_store))
        {
            return error;
        }
        from_daemon(error)
    })
}

/// The interface first, then its addresses. It goes well again and again, and with nothing there.
fn del(call: &Call, config: &Config) -> Result<(), CniError> {
    let owner = owner(&config.network, &call.container, &call.interface);
    take_away(config, &owner, call.netns.as_deref())
}

/// Takes an attachment away, wherever anything is left of it.
fn take_away(config: &Config, owner: &Owner, netns: Option<&Path>) -> Result<(), CniError> {
    match Daemon::of(config).release(owner) {
        // One that is away forgets ports whose interfaces are gone when it is back.
        Ok(()) | Err(DaemonError::Away { .. }) => {}
        Err(error) => return Err(from_daemon(error)),
    }
    // Read before the lock is given back, and removed under a new one: a runtime asks for one thing at a time of a container.
    let Some(record) = open(config)?.find(owner).map_err(from_store)? else {
        // What an earlier boot left goes too.
        return open(config)?.release(owner).map(drop).map_err(from_store);
    };
    let remembered = Some(Path::new(&record.netns)).filter(|path| !path.starts_with(PROCESSES));
    if let Some(netns) = netns.or(remembered) {
        remove_within(netns, &owner.interface).map_err(|error| {
            let doing = format!(
                "removing {} in network namespace {}",
                owner.interface,
                netns.display()
            );
            CniError::io(&doing, &error)
        })?;
    }
    open(config)?.release(owner).map(drop).map_err(from_store)
}

fn check(call: &Call, config: &Config) -> Result<(), CniError> {
    let Some(previous) = &config.previous else {
        let msg = "prevResult is missing; CHECK is about what ADD made";
        return Err(CniError::new(INVALID_CONFIG, msg));
    };
    let not_as_made = |msg: String| Err(CniError::new(NOT_AS_MADE, msg));
    let owner = owner(&config.network, &call.container, &call.interface);
    let Some(addresses) = report::addresses_in(previous, call) else {
        return not_as_made(format!(
            "prevResult has no interface {} in this namespace",
            call.interface
        ));
    };
    let Some(record) = open(config)?.find(&owner).map_err(from_store)? else {
        return not_as_made(format!("nothing is written down of container {}", call.container));
    };
    if let Some(address) = record
        .addresses
        .iter()
        .find(|address| !addresses.contains(address))
    {
        return not_as_made(format!(
            "prevResult lacks the address {address} of container {}",
            call.container
        ));
    }
    let daemon = Daemon::of(config);
    let made = (record.addresses.as_slice(), &config.bandwidth);
    let verified = daemon.verify(&owner, call.netns.as_deref(), made);
    verified.map_err(|error| match error {
        DaemonError::Failed(_) => from_daemon(error).with_code(NOT_AS_MADE),
        other => from_daemon(other),
    })
}

/// Takes away what is not named, and goes on past what fails.
fn gc(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid else {
        let msg = "cni.dev/valid-attachments is missing; without it all that is there might be in use";
        return Err(CniError::new(INVALID_CONFIG, msg));
    };
    let mut errors: Vec<CniError> = Vec::new();
    match Daemon::of(config).retain(&config.network, valid) {
        Ok(()) | Err(DaemonError::Away { .. }) => {}
        Err(error) => errors.push(from_daemon(error)),
    }
    let is_stale = |record: &Record| {
        let owner = &record.owner;
        let is_it = |(container, interface): &(String, String)| {
            (container, interface) == (&owner.container, &owner.interface)
        };
        owner.network == config.network && !valid.iter().any(is_it)
    };
    let records = open(config)?.records().map_err(from_store)?;
    for record in records.iter().filter(|record| is_stale(record)) {
        errors.extend(take_away(config, &record.owner, None).err());
    }
    let Some(first) = errors.first() else {
        return Ok(());
    };
    let all: Vec<&str> = errors.iter().map(|error| error.msg.as_str()).collect();
    Err(CniError::new(first.code, all.join("; ")))
}

/// Tells whether ADD would go well.
fn status(config: &Config) -> Result<(), CniError> {
    if let Some(network) = config.second {
        return network::status(config, network);
    }
    let facts = Daemon::of(config).node_facts().map_err(unavailable)?;
    let not_available = |msg: &str| Err(CniError::new(NOT_AVAILABLE, msg));
    if facts.mtu.is_none() {
        let msg = "the node's uplink is gone: no pod reaches another node";
        return Err(CniError::new(LIMITED_CONNECTIVITY, msg));
    }
    if facts.ports_free == 0 {
        return not_available("the switch has no port left, and no queues for one");
    }
    let because = |error: CniError| error.with_code(NOT_AVAILABLE);
    let pools = pools(&facts).map_err(because)?;
    let store = open(config).map_err(because)?;
    store.has_room(&pools).map_err(from_store).map_err(because)
}

/// As STATUS says that the daemon did not tell.
pub(crate) fn unavailable(error: DaemonError) -> CniError {
    let code = match error {
        // Without a daemon no packet of a pod passes.
        DaemonError::Away { .. } => LIMITED_CONNECTIVITY,
        DaemonError::Turn { .. } | DaemonError::Failed(_) | DaemonError::Refused(_) => NOT_AVAILABLE,
    };
    from_daemon(error).with_code(code)
}

fn pools(facts: &NodeFacts) -> Result<Pools, CniError> {
    if facts.pod_cidrs.is_empty() {
        let msg = "this node has no pod CIDR yet";
        return Err(CniError::new(TRY_AGAIN_LATER, msg));
    }
    Ok(Pools::new(&facts.pod_cidrs, &facts.reserved))
}

/// The store, locked until it is dropped.
pub(crate) fn open(config: &Config) -> Result<Store<Folder>, CniError> {
    let doing = |what: &str, path: &Path| format!("{what} {}", path.display());
    let boot = fs::read_to_string(BOOT_ID)
        .map_err(|error| CniError::io(&doing("reading", Path::new(BOOT_ID)), &error))?;
    let place = config.store();
    let folder = Folder::lock(&place)
        .map_err(|error: io::Error| CniError::io(&doing("opening the store of addresses", &place), &error))?;
    Ok(Store::new(folder, boot.trim()))
}

pub(crate) fn owner(network: &str, container: &str, interface: &str) -> Owner {
    Owner {
        network: network.to_owned(),
        container: container.to_owned(),
        interface: interface.to_owned(),
    }
}

pub(crate) fn from_daemon(error: DaemonError) -> CniError {
    let code = match error {
        DaemonError::Away { .. } | DaemonError::Failed(_) => TRY_AGAIN_LATER,
        DaemonError::Turn { .. } => IO_FAILURE,
        DaemonError::Refused(_) => REFUSED,
    };
    CniError::new(code, error.to_string())
}

pub(crate) fn from_store(error: StoreError) -> CniError {
    let code = match error {
        StoreError::System { .. } | StoreError::Format { .. } => IO_FAILURE,
        // One that is freed may be had.
        StoreError::Exhausted { .. } => TRY_AGAIN_LATER,
        StoreError::Unfit { .. } => REFUSED,
    };
    CniError::new(code, error.to_string())
}

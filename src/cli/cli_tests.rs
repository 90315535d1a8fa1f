#![allow(clippy::unwrap_used, clippy::panic)]

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;
use crate::admin::lab::Lab;
use crate::admin::server::Limits;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("millrace").chain(line.split_whitespace()))
}

fn client(line: &str) -> ClientCommand {
    match parse(line).unwrap_or_else(|error| panic!("{error}")).command {
        Command::Client(command) => command,
        other => panic!("{other:?}"),
    }
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_understood() {
    let rows = [
        "run --config a.toml",
        "check a.toml",
        "uninstall --config a.toml",
        "uninstall --cni",
        "uninstall --cni --cni-bin-dir /b --cni-conf-dir /c --stop --config a.toml",
        "doctor",
        "doctor --config a.toml --json",
        "doctor --uplink eth1 --cni-conf-dir /c",
        "install",
        "install --plugin p --conflist c --cni-bin-dir /b",
        "health",
        "health --ready",
        "stats",
        "stats --json",
        "stats --openmetrics",
        "show ports",
        "show routes --json",
        "show neighbours",
        "show peers",
        "show workers",
        "show services",
        "show policies --json",
        "show dns --json",
        "show fdb",
        "show fdb --network shop/blue --limit 5 --json",
        "explain --from shop/web --to shop/db:5432",
        "explain --from shop/web --to 10.96.0.1:53 --proto udp --manifests new --json",
        "explain --network shop/blue --from 02:00:00:00:00:01 --to ff:ff:ff:ff:ff:ff --json",
        "explain --network shop/blue --from 10.9.0.7 --to [fd09::7]:80 --proto udp",
        "show flows --network shop/blue",
        "denied",
        "denied --follow --json",
        "show services --pod default/web-0 --address 10.96.0.1 --port 443 --state ready --json",
        "attach default/web-0 --netns /run/netns/a",
        "attach default/web-0 --netns /run/netns/a --address 10.0.0.1 --address fd00::1 --interface net1",
        "detach default/web-0",
        "capture --port uplink",
        "capture --port eth1 --filter tcp --count 5 -w -",
        "capture --port eth1 --seconds 3 -w out.pcapng",
        "completions bash",
        "completions zsh",
        "completions fish",
        "--socket /x stats",
        "stats --socket /x",
    ];
    for row in rows {
        parse(row).unwrap_or_else(|error| panic!("{row}: {error}"));
    }
}

#[test]
fn wrong_usage_is_said_with_status_2() {
    let rows = [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("run", ErrorKind::MissingRequiredArgument),
        ("uninstall", ErrorKind::MissingRequiredArgument),
        ("uninstall --stop --cni", ErrorKind::MissingRequiredArgument),
        ("doctor --config a --uplink b", ErrorKind::ArgumentConflict),
        ("show", ErrorKind::MissingRequiredArgument),
        ("show things", ErrorKind::InvalidValue),
        ("show fdb --network blue", ErrorKind::ValueValidation),
        ("attach web-0 --netns /run/netns/a", ErrorKind::ValueValidation),
        ("attach default/web-0", ErrorKind::MissingRequiredArgument),
        (
            "attach default/web-0 --netns /proc/self/ns/net",
            ErrorKind::ValueValidation,
        ),
        (
            "attach default/web-0 --netns /n --address 10.0.0",
            ErrorKind::ValueValidation,
        ),
        (
            "attach default/web-0 --netns /n --interface a/b",
            ErrorKind::ValueValidation,
        ),
        ("explain --from web --to shop/db:1", ErrorKind::ValueValidation),
        (
            "explain --network shop/blue --from 02:00:00:00:00:01 --to 02:00:00:00:00:02 --manifests m",
            ErrorKind::ArgumentConflict,
        ),
        ("capture", ErrorKind::MissingRequiredArgument),
        ("capture --port eth1 --count 0", ErrorKind::ValueValidation),
        ("completions tcsh", ErrorKind::InvalidValue),
    ];
    for (row, kind) in rows {
        let error = parse(row).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{row:?}: {error}");
    }
}

#[test]
fn what_is_given_arrives() {
    let ClientCommand::Attach(attach) = client("attach a/b --netns rel --address 10.0.0.1 --address fd00::1")
    else {
        panic!("no attach");
    };
    assert!(attach.netns.is_some_and(|netns| netns.is_absolute()));
    assert_eq!(attach.pod.as_deref(), Some("a/b"));
    assert_eq!(
        attach.addresses,
        ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]
    );
    let ClientCommand::Capture(capture) = client("capture --port eth1 -w -") else {
        panic!("no capture")
    };
    assert_eq!(capture.write.as_deref(), Some(Path::new("-")));
}

#[test]
fn requests_reach_the_daemon_and_its_failures_come_back() {
    let lab = Lab::start(Limits::default());
    let failure = execute(&lab.path(), client("detach a/b")).unwrap_err();
    assert_eq!(failure, Failure::wrong("no pod a/b"));
    let rows = [
        ("explain --from 02:00:00:00:00:01 --to shop/db:1", "NAMESPACE/POD"),
        (
            "explain --network a/b --from a/b --to 02:00:00:00:00:01",
            "no MAC address",
        ),
        (
            "explain --network a/b --from 02:00:00:00:00:01 --to db:80",
            "no MAC address",
        ),
        (
            "explain --network a/b --from 02:00:00:00:00:01 --to 02:00:00:00:00:02 --proto tcp",
            "leave --proto out",
        ),
        ("explain --network a/b --from 10.9.0.7 --to db:80", "IP:PORT"),
    ];
    for (line, said) in rows {
        let failure = execute(&lab.path(), client(line)).unwrap_err();
        assert!(
            failure.status == 2 && failure.message.contains(said),
            "{line}: {failure:?}"
        );
    }
    // The lab's counters are not those of a daemon.
    let failure = execute(&lab.path(), client("stats")).unwrap_err();
    assert!(failure.message.contains("not understood"), "{}", failure.message);
    let folder = tempfile::tempdir().unwrap();
    let failure = execute(&folder.path().join("s"), client("show peers")).unwrap_err();
    assert_eq!(failure.status, 1);
    assert!(
        failure.message.contains("no daemon answers"),
        "{}",
        failure.message
    );
}

#[test]
fn help_has_examples_and_exit_status_and_goes_into_every_completion() {
    let mut command = Cli::command();
    let help = command.render_long_help().to_string();
    for word in [
        "run",
        "check",
        "stats",
        "show",
        "attach",
        "detach",
        "capture",
        "uninstall",
        "Exit status:",
    ] {
        assert!(help.contains(word), "{word}");
    }
    for sub in command
        .get_subcommands_mut()
        .filter(|sub| sub.get_name() != "help")
    {
        let help = sub.render_long_help().to_string();
        assert!(
            help.contains("Examples:\n  millrace "),
            "{}: {help}",
            sub.get_name()
        );
    }
}

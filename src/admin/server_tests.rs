#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::admin::lab::{Lab, SLOW_ANSWER_BYTES};

/// A user that is neither root nor the one that runs the tests.
const FOREIGN_UID: u32 = 65534;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(lab: &Lab) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(lab.path()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn say(client: &mut BufReader<UnixStream>, text: &str) {
    client.get_mut().write_all(text.as_bytes()).unwrap();
}

fn hear(client: &mut BufReader<UnixStream>) -> Response {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn hear_failure(client: &mut BufReader<UnixStream>) -> Failure {
    match hear(client) {
        Response::Error(failure) => failure,
        Response::Ok(value) => panic!("{value}"),
    }
}

fn assert_answered(client: &mut BufReader<UnixStream>) {
    say(client, "{\"request\":\"stats\"}\n");
    assert_eq!(hear(client), Response::Ok(serde_json::json!({"node": "node-a"})));
}

fn assert_closed(client: &mut BufReader<UnixStream>) {
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn short(limits: impl Fn(&mut Limits)) -> Limits {
    let mut bounds = Limits::default();
    limits(&mut bounds);
    bounds
}

#[test]
fn socket_is_private_answers_and_goes_away_with_control() {
    let mut lab = Lab::start(Limits::default());
    let mode = std::fs::metadata(lab.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut client = connect(&lab);
    for _ in 0..3 {
        assert_answered(&mut client);
    }
    lab.stop();
    assert_closed(&mut client);
    assert!(!lab.path().exists());
}

#[test]
fn malformed_requests_are_refused_and_the_connection_goes_on() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    let rows = [
        ("", "EOF"),
        ("nonsense", "expected"),
        ("\u{0}\u{1}", "expected"),
        ("[1,2]", "not a request"),
        ("{\"request\":\"stat\"}", "unknown variant `stat`"),
        ("{\"request\":\"capture\"}", "missing field `port`"),
        (
            "{\"request\":\"detach\",\"pod\":\"a/b\",\"force\":true}",
            "unknown field `force`",
        ),
        (
            "{\"request\":\"attach\",\"pod\":\"a/b\",\"netns\":\"/n\",\"addresses\":[\"x\"],\"interface\":\"e\"}",
            "IP",
        ),
    ];
    for (line, complaint) in rows {
        say(&mut client, &format!("{line}\n"));
        let failure = hear_failure(&mut client);
        assert_eq!(failure.status, 2, "{line:?}");
        assert!(
            failure.message.contains(complaint),
            "{line:?}: {}",
            failure.message
        );
    }
    client.get_mut().write_all(b"{\"request\":\"\xff\"}\n").unwrap();
    assert_eq!(hear_failure(&mut client).status, 2);
    let long = "x".repeat(10_000);
    say(&mut client, &format!("{{\"request\":\"{long}\"}}\n"));
    assert!(hear_failure(&mut client).message.len() < 2 * COMPLAINT_MAX_CHARS);
    assert_eq!(lab.seen.requests.load(Ordering::Relaxed), 0);
    assert_answered(&mut client);
}

#[test]
fn requests_may_come_in_pieces_together_and_without_a_last_newline() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    for piece in "{\"request\":\"stats\"}\n".as_bytes().chunks(5) {
        client.get_mut().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    hear(&mut client);
    say(
        &mut client,
        "{\"request\":\"stats\"}\n{\"request\":\"detach\",\"pod\":\"a/b\"}\n{\"request\":\"stats\"}",
    );
    client.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(hear(&mut client), Response::Ok(_)));
    assert_eq!(hear_failure(&mut client), Failure::wrong("no pod a/b"));
    assert!(matches!(hear(&mut client), Response::Ok(_)));
    assert_closed(&mut client);
}

#[test]
fn oversized_request_is_refused_and_the_longest_allowed_is_not() {
    let lab = Lab::start(short(|limits| limits.request_bytes = 1000));
    let request = "{\"request\":\"stats\"}";
    let mut client = connect(&lab);
    say(
        &mut client,
        &format!("{request}{}\n", " ".repeat(1000 - request.len())),
    );
    assert!(matches!(hear(&mut client), Response::Ok(_)));
    say(
        &mut client,
        &format!("{request}{}\n", " ".repeat(1001 - request.len())),
    );
    let failure = hear_failure(&mut client);
    assert_eq!(
        (failure.status, failure.message.contains("1000 bytes")),
        (2, true),
        "{}",
        failure.message
    );
    assert_closed(&mut client);
}

#[test]
fn client_that_sends_without_end_is_cut_off() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    let chunk = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while client.get_mut().write_all(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 4 * Limits::default().request_bytes, "nothing stops it");
    }
    assert_eq!(hear_failure(&mut client).status, 2);
}

#[test]
fn one_client_too_many_is_told_and_room_comes_back() {
    let lab = Lab::start(Limits::default());
    let mut clients: Vec<_> = (0..64).map(|_| connect(&lab)).collect();
    for client in &mut clients {
        assert_answered(client);
    }
    let mut late = connect(&lab);
    let failure = hear_failure(&mut late);
    assert_eq!(
        (failure.status, failure.message.contains("64 clients")),
        (1, true),
        "{}",
        failure.message
    );
    assert_closed(&mut late);
    drop(clients.pop());
    wait_for("room for a client", || {
        let mut next = connect(&lab);
        let _ = next.get_mut().write_all(b"{\"request\":\"stats\"}\n");
        matches!(hear(&mut next), Response::Ok(_))
    });
    assert_answered(&mut clients[0]);
}

/// What a foreign user hears who connects and asks for the counters.
fn ask_as_foreigner(lab: &Lab) -> String {
    let script =
        "$SIG{PIPE} = q(IGNORE); socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die \"connect: $!\\n\";
        syswrite(S, qq({\"request\":\"stats\"}\\n)); print <S>;";
    let mut command = Command::new("perl");
    command
        .args(["-MSocket", "-e", script])
        .arg(lab.path())
        .uid(FOREIGN_UID)
        .gid(FOREIGN_UID);
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the tests run as root, with Debian's perl-base");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn foreign_user_is_kept_out_by_the_mode_and_by_the_credentials() {
    let lab = Lab::start(Limits::default());
    let heard = ask_as_foreigner(&lab);
    assert!(heard.contains("connect: Permission denied"), "{heard}");
    lab.open_to_all();
    let heard = ask_as_foreigner(&lab);
    assert!(
        heard.contains(&format!("user {FOREIGN_UID} may not speak to the daemon")),
        "{heard}"
    );
    assert_eq!(heard.lines().count(), 1, "{heard}");
    assert_eq!(lab.seen.requests.load(Ordering::Relaxed), 0);
    assert_answered(&mut connect(&lab));
}

#[test]
fn silent_and_dribbling_clients_are_let_go() {
    let lab = Lab::start(short(|limits| limits.idle = Duration::from_millis(200)));
    for text in ["", "{\"request\":"] {
        let mut client = connect(&lab);
        say(&mut client, text);
        let begun = Instant::now();
        assert!(hear_failure(&mut client).message.contains("no request came"));
        assert!(begun.elapsed() >= Duration::from_millis(150));
        assert_closed(&mut client);
    }
}

#[test]
fn control_that_does_not_answer_is_reported_and_holds_up_nobody_else() {
    let lab = Lab::start(short(|limits| limits.answer = Duration::from_millis(300)));
    let mut waiting = connect(&lab);
    say(&mut waiting, "{\"request\":\"show-workers\"}\n");
    assert_answered(&mut connect(&lab));
    let failure = hear_failure(&mut waiting);
    assert!(failure.message.contains("too busy"), "{}", failure.message);
    assert_answered(&mut waiting);
    say(&mut waiting, "{\"request\":\"show-neighbours\"}\n");
    assert!(hear_failure(&mut waiting).message.contains("stopping"));
    assert_answered(&mut waiting);
}

#[test]
fn client_that_does_not_read_is_let_go_and_holds_up_nobody() {
    let lab = Lab::start(short(|limits| limits.send = Duration::from_millis(300)));
    let mut slow = connect(&lab);
    say(&mut slow, "{\"request\":\"show-routes\"}\n");
    let mut other = connect(&lab);
    for _ in 0..20 {
        let begun = Instant::now();
        assert_answered(&mut other);
        assert!(begun.elapsed() < Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut cut = Vec::new();
    slow.read_to_end(&mut cut).unwrap();
    assert!(
        !cut.ends_with(b"\n") && cut.len() < SLOW_ANSWER_BYTES / 2,
        "{} bytes",
        cut.len()
    );
}

#[test]
fn answer_that_no_line_holds_becomes_an_error() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    say(&mut client, "{\"request\":\"show-ports\"}\n");
    assert!(matches!(hear(&mut client), Response::Ok(_)));
    say(&mut client, "{\"request\":\"show-peers\"}\n");
    assert!(
        hear_failure(&mut client)
            .message
            .contains("is the most that is sent")
    );
    assert_answered(&mut client);
}

#[test]
fn capture_streams_its_lines_and_ends_with_control() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    say(&mut client, "{\"request\":\"capture\",\"port\":\"absent\"}\n");
    assert_eq!(hear_failure(&mut client), Failure::failed("no port absent"));
    say(&mut client, "{\"request\":\"capture\",\"port\":\"eth1\"}\n");
    let lines: Vec<String> = client.lines().map(|line| line.unwrap()).collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(lines[0], "{\"ok\":{\"interface\":\"eth1\",\"port\":\"uplink\"}}");
    assert!(lines[1].starts_with("{\"packet\":{\"time_ns\":1700000000123456790,\"direction\":\"received\""));
    assert_eq!(lines[5], "{\"lost\":3}");
}

#[test]
fn hanging_up_ends_a_capture_that_sees_no_packets() {
    let lab = Lab::start(Limits::default());
    let mut client = connect(&lab);
    say(&mut client, "{\"request\":\"capture\",\"port\":\"quiet\"}\n");
    hear(&mut client);
    // What is said meanwhile is not heard, and does not end it.
    say(&mut client, "{\"request\":\"stats\"}\n");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(lab.seen.hung_up.load(Ordering::Relaxed), 0);
    drop(client);
    wait_for("the end of the capture", || {
        lab.seen.hung_up.load(Ordering::Relaxed) == 1
    });
    assert_eq!(lab.seen.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn capture_that_is_not_read_loses_copies_and_holds_up_nobody() {
    let lab = Lab::start(Limits::default());
    let mut slow = connect(&lab);
    say(&mut slow, "{\"request\":\"capture\",\"port\":\"flood\"}\n");
    hear(&mut slow);
    wait_for("lost copies", || lab.seen.lost.load(Ordering::Relaxed) > 1000);
    let begun = Instant::now();
    assert_answered(&mut connect(&lab));
    assert!(begun.elapsed() < Duration::from_secs(1));
    drop(slow);
    wait_for("the end of the capture", || {
        lab.seen.hung_up.load(Ordering::Relaxed) == 1
    });
}

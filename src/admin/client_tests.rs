#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::net::UnixListener;

use super::*;
use crate::admin::lab::Lab;
use crate::admin::server::Limits;

#[test]
fn answers_and_failures_come_through() {
    let lab = Lab::start(Limits::default());
    let mut client = Client::connect(&lab.path()).unwrap();
    assert_eq!(
        client.request(&Request::Stats),
        Ok(serde_json::json!({"node": "node-a"}))
    );
    let failure = client
        .request(&Request::Detach {
            pod: "a/b".to_owned(),
        })
        .unwrap_err();
    assert_eq!(failure, Failure::wrong("no pod a/b"));
    let long = client.request(&Request::ShowPorts).unwrap();
    assert!(
        long.as_str()
            .is_some_and(|text| text.len() > LINE_MAX_BYTES - 200)
    );
}

#[test]
fn daemon_that_is_not_there_is_told_from_one_that_is_another_user_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let absent = Client::connect(&path).unwrap_err();
    assert!(matches!(absent, ClientError::NotRunning { .. }), "{absent:?}");
    assert!(absent.to_string().contains("millrace run --config"), "{absent}");
    drop(UnixListener::bind(&path).unwrap());
    let stale = Client::connect(&path).unwrap_err();
    assert!(matches!(stale, ClientError::NotRunning { .. }), "{stale:?}");
    let long = Client::connect(&folder.path().join("x".repeat(200))).unwrap_err();
    assert!(matches!(long, ClientError::Connect { .. }), "{long:?}");
}

#[test]
fn refusal_at_the_door_is_understood() {
    let lab = Lab::start(Limits {
        clients: 0,
        ..Limits::default()
    });
    for _ in 0..50 {
        let failure = Client::connect(&lab.path())
            .unwrap()
            .request(&Request::Stats)
            .unwrap_err();
        assert!(
            failure.message.contains("which is the most it takes"),
            "{}",
            failure.message
        );
    }
}

/// What the client makes of a daemon that sends `bytes` and hangs up.
fn after(bytes: Vec<u8>) -> Failure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1000];
        let _ = stream.read(&mut request).unwrap();
        let _ = stream.write_all(&bytes);
    });
    let failure = Client::connect(&path)
        .unwrap()
        .request(&Request::Stats)
        .unwrap_err();
    daemon.join().unwrap();
    failure
}

#[test]
fn daemon_that_talks_nonsense_is_reported() {
    let rows = [
        (Vec::new(), "closed the connection"),
        (b"{\"ok\":1".to_vec(), "closed the connection"),
        (b"hello\n".to_vec(), "not understood"),
        (b"{\"maybe\":1}\n".to_vec(), "not understood"),
        (
            vec![b'x'; LINE_MAX_BYTES + 2 * READ_BYTES],
            "sent a line of more than",
        ),
    ];
    for (bytes, complaint) in rows {
        let length = bytes.len();
        let failure = after(bytes);
        assert!(
            failure.message.contains(complaint),
            "{length} bytes: {}",
            failure.message
        );
        assert_eq!(failure.status, 1);
    }
}

#[test]
fn capture_is_an_iterator_that_says_when_it_is_quiet() {
    let lab = Lab::start(Limits::default());
    let (begun, stream) = Client::connect(&lab.path()).unwrap().capture("eth1").unwrap();
    assert_eq!(begun["interface"], "eth1");
    let events: Vec<_> = stream.map(Result::unwrap).collect();
    let lines: Vec<_> = events
        .iter()
        .filter(|event| **event != CaptureEvent::Quiet)
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[4], &CaptureEvent::Line(CaptureLine::Lost(3)));
    assert_eq!(
        events.last(),
        Some(&CaptureEvent::Quiet),
        "what was given out last is to be flushed at once"
    );

    let (_, mut stream) = Client::connect(&lab.path()).unwrap().capture("quiet").unwrap();
    for _ in 0..2 {
        assert_eq!(stream.next().unwrap().unwrap(), CaptureEvent::Quiet);
    }
    let failure = Client::connect(&lab.path())
        .unwrap()
        .capture("absent")
        .unwrap_err();
    assert_eq!(failure, Failure::failed("no port absent"));
}

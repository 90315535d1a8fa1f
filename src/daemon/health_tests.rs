//! Real connections on the loopback interface.
#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::daemon::compile::services::LocalEndpoints;
use crate::objects::ServiceKey;

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn service(name: &str, port: u16, local_endpoints: usize) -> HealthPort {
    HealthPort {
        port,
        service: ServiceKey::new("default", name).unwrap(),
        local: LocalEndpoints {
            v4: Some(local_endpoints),
            v6: None,
        },
    }
}

/// Status and body of the answer, or `None` if nobody listens.
async fn get(port: u16, path: &str) -> Option<(u16, serde_json::Value)> {
    get_at("127.0.0.1", port, path).await
}

/// The same at one of the node's addresses.
async fn get_at(address: &str, port: u16, path: &str) -> Option<(u16, serde_json::Value)> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, serde_json::from_str(body).unwrap()))
}

#[tokio::test]
async fn the_node_says_that_it_is_well_and_whether_it_takes_more() {
    let port = free_port();
    let mut health = Health::new();
    assert_eq!(health.sync(port, &[], false), Vec::<String>::new());
    for (path, expected) in [("/healthz", 200), ("/livez", 200), ("/", 404)] {
        assert_eq!(get(port, path).await.unwrap().0, expected, "{path}");
    }
    health.sync(port, &[], true);
    let (status, body) = get(port, "/healthz").await.unwrap();
    assert_eq!((status, &body["nodeEligible"]), (503, &json!(false)), "{body}");
    assert_eq!(
        get(port, "/livez").await.unwrap().0,
        200,
        "a node that goes is alive"
    );
    health.known.lock().unwrap().alive_at -= SIGN_OF_LIFE;
    assert_eq!(
        get(port, "/livez").await.unwrap().0,
        503,
        "control gave no sign of life"
    );
    health.beat();
    assert_eq!(get(port, "/livez").await.unwrap().0, 200);
    health.sync(0, &[], false);
    tokio::task::yield_now().await;
    assert_eq!(get(port, "/healthz").await, None, "switched off");
}

#[tokio::test]
async fn a_service_is_well_where_it_has_an_endpoint() {
    let (node, port) = (free_port(), free_port());
    let mut health = Health::new();
    health.sync(node, &[service("web", port, 2)], false);
    let (status, body) = get(port, "/anything").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(body["localEndpoints"], 2);
    assert_eq!(body["service"], json!({"namespace": "default", "name": "web"}));
    health.sync(node, &[service("web", port, 0)], false);
    assert_eq!(get(port, "/").await.unwrap().0, 503, "no endpoint here");
    health.sync(node, &[service("web", port, 1)], true);
    assert_eq!(
        get(port, "/").await.unwrap().0,
        200,
        "only /healthz follows the node"
    );
    health.sync(node, &[], false);
    tokio::task::yield_now().await;
    assert_eq!(get(port, "/").await, None, "the Service is gone");
}

/// As kube-proxy has it, a server for each family, though one socket hears both.
#[tokio::test]
async fn each_family_is_told_of_its_own_endpoints() {
    let port = free_port();
    let mut health = Health::new();
    for (v4, v6, over_v4, over_v6) in [
        (Some(2), Some(1), 2, 1),
        (Some(0), Some(1), 0, 1),
        (Some(3), None, 3, 3),
        (None, Some(3), 3, 3),
        (None, Some(0), 0, 0),
    ] {
        let local = LocalEndpoints { v4, v6 };
        let service = HealthPort {
            local,
            ..service("web", port, 0)
        };
        health.sync(0, &[service], false);
        for (address, expected) in [("127.0.0.1", over_v4), ("::1", over_v6)] {
            let (status, body) = get_at(address, port, "/").await.unwrap();
            assert_eq!(body["localEndpoints"], expected, "{local:?} by {address}");
            assert_eq!(
                status,
                if expected > 0 { 200 } else { 503 },
                "{local:?} by {address}"
            );
        }
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_named_once_and_tried_again() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut health = Health::new();
    let services = [service("web", port, 1), service("other", port, 1)];
    let failures = health.sync(0, &services, false);
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures[0].contains("Service default/other"), "{failures:?}");
    assert!(failures[1].contains("cannot listen on TCP port"), "{failures:?}");
    assert_eq!(
        health.sync(0, &services, false),
        Vec::<String>::new(),
        "said already"
    );
    drop(taken);
    health.sync(0, &services, false);
    assert_eq!(get(port, "/").await.unwrap().1["service"]["name"], "web");
    let failures = health.sync(port, &services[..1], false);
    assert!(failures[0].contains("the node's own"), "{failures:?}");
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on_and_others_are_answered() {
    let port = free_port();
    let mut health = Health::new();
    health.sync(port, &[], false);
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(get(port, "/livez").await.unwrap().0, 200);
    let mut rest = Vec::new();
    // Far longer than it takes, however slow the machine.
    let ended = timeout(REQUEST_TIME * 20, silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still waiting for a request");
}

//! The tests' own server behind TLS: whose certificate is believed, and who is told what is wrong with it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use millrace::config::Kubernetes;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::fake::Fake;
use crate::log;
use crate::node::{NODES, TestNode, node};

const OWN: &str = "node-a";

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}

fn place(folder: &Path, file: &str) -> String {
    folder.join(file).to_str().unwrap().to_owned()
}

/// Makes an authority; answers its certificate, beside which is its key.
pub(crate) fn authority(folder: &Path, name: &str) -> PathBuf {
    let (key, certificate) = (
        place(folder, &format!("{name}.key")),
        place(folder, &format!("{name}.crt")),
    );
    let subject = format!("/CN={name}");
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
    let names = ["-subj", &subject, "-keyout", &key, "-out", &certificate];
    let extension = ["-addext", "keyUsage=critical,keyCertSign"];
    openssl(&[&make[..], &names[..], &extension[..]].concat());
    certificate.into()
}

/// Makes a certificate that an authority vouches for; answers it and its key.
fn certificate(folder: &Path, authority: &str, of: &str) -> (PathBuf, PathBuf) {
    let file = |kind: &str| place(folder, &format!("server.{kind}"));
    let of_authority = |kind: &str| place(folder, &format!("{authority}.{kind}"));
    let (key, request, made, names) = (file("key"), file("csr"), file("crt"), file("ext"));
    fs::write(&names, format!("subjectAltName={of}\n")).unwrap();
    let ask = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server"];
    openssl(&[&ask[..], &["-keyout", &key, "-out", &request][..]].concat());
    let (ca, ca_key) = (of_authority("crt"), of_authority("key"));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
    let how = ["-CAcreateserial", "-days", "1", "-extfile", &names, "-out", &made];
    openssl(&[&sign[..], &how[..]].concat());
    (made.into(), key.into())
}

/// What stands before a server and speaks TLS.
struct Front {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    fn start(fake: &Fake, (certificate, key): &(PathBuf, PathBuf)) -> Self {
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let config = config.with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let behind: SocketAddr = fake.url().strip_prefix("http://").unwrap().parse().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (address_in, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_in.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = accept(listener, acceptor, behind) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: address.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not like the certificate goes away, which is what some tests are about.
            let Ok(mut before) = acceptor.accept(stream).await else {
                return;
            };
            let mut after = TcpStream::connect(behind).await.unwrap();
            let _ = copy_bidirectional(&mut before, &mut after).await;
        });
    }
}

/// A server with this node, behind TLS, and what is needed to get there.
struct Bench {
    front: Front,
    fake: Fake,
    folder: tempfile::TempDir,
    config: Kubernetes,
}

impl Bench {
    fn start(names: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::start();
        fake.put(NODES, node(OWN, "10.244.0.0/16"));
        let ca = authority(folder.path(), "ours");
        let front = Front::start(&fake, &certificate(folder.path(), "ours", names));
        let token = folder.path().join("token");
        fs::write(&token, "of-the-service-account\n").unwrap();
        let config = Kubernetes {
            server: Some(front.url().parse().unwrap()),
            ca_file: Some(ca),
            token_file: Some(token),
            ..Kubernetes::default()
        };
        Self {
            front,
            fake,
            folder,
            config,
        }
    }

    fn node(&self, config: &Kubernetes) -> TestNode {
        TestNode::start(config, OWN, self.folder.path())
    }
}

#[test]
fn objects_come_by_tls_with_the_token() {
    let bench = Bench::start("IP:127.0.0.1");
    let by_files = bench.node(&bench.config);
    by_files.wait("the node", |store| store.own_node().is_some());
    bench.fake.put(NODES, node("node-b", "10.245.0.0/16"));
    by_files.wait("another", |store| store.nodes().count() == 2);
    drop(by_files);
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": bench.front.url(), "certificate-authority": bench.config.ca_file}}],
        "users": [{"name": "a", "user": {"tokenFile": bench.config.token_file}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
    let file = bench.folder.path().join("kubeconfig");
    fs::write(&file, text.to_string()).unwrap();
    let by_kubeconfig = bench.node(&Kubernetes {
        kubeconfig: Some(file),
        ..Kubernetes::default()
    });
    bench.fake.put(NODES, node("node-c", "10.246.0.0/16"));
    by_kubeconfig.wait("one more", |store| store.nodes().count() == 3);
    let seen = bench.fake.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.authorization == "Bearer of-the-service-account"),
        "{seen:?}"
    );
}

#[test]
fn a_certificate_of_somebody_else_or_for_another_name_is_refused_by_name() {
    let bench = Bench::start("IP:127.0.0.1");
    let wrong = Kubernetes {
        ca_file: Some(authority(bench.folder.path(), "others")),
        ..bench.config.clone()
    };
    let other = Bench::start("DNS:elsewhere.example");
    for (bench, config, why) in [
        (&bench, &wrong, "UnknownIssuer"),
        (&other, &other.config, "not valid for name"),
    ] {
        let node = bench.node(config);
        let says = format!("the API server {}/ cannot be reached", bench.front.url());
        log::wait_for(&[&says, why]);
        assert_eq!(
            (node.count("lists"), bench.fake.seen().len()),
            (0, 0),
            "nothing is said to who is not believed, least of all the token"
        );
    }
}

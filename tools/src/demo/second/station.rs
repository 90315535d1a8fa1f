//! A station of either network, what it does, and who answers it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::seen::Marks;
use crate::lab::machine::Machine;
use crate::lab::traffic::named::Answered;
use crate::lab::{Finished, LabError, Namespace, Process, find_program, wait_until};

/// How long anything may take in a machine that is emulated.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Where everybody answers with its name.
const PORT: u16 = 7007;
/// The program that answers and asks; in a machine it is in the search path.
const GUEST: &str = "millrace-guest";

/// Where a station's programs run.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Namespace(&'a Namespace),
    Machine(&'a Machine),
}

/// A station.
pub(super) struct Station<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place<'a>,
    pub(super) interface: &'a str,
    pub(super) addresses: Vec<IpAddr>,
}

impl Station<'_> {
    /// Runs a program where the station is.
    pub(super) fn complete(&self, program: &str, words: &[&str]) -> Result<Finished, LabError> {
        match self.place {
            Place::Namespace(namespace) => {
                let beside = find_program()?.with_file_name(program);
                let program = if beside.is_file() {
                    beside.display().to_string()
                } else {
                    program.to_owned()
                };
                namespace.complete(&program, words, PATIENCE)
            }
            Place::Machine(machine) => {
                let line: Vec<&str> = [program].into_iter().chain(words.iter().copied()).collect();
                machine.complete(&line, PATIENCE)
            }
        }
    }

    /// Its addresses, for people.
    pub(super) fn listed(&self) -> String {
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        addresses.collect::<Vec<_>>().join(" ")
    }

    /// The link address of its interface.
    pub(super) fn mac(&self) -> Result<[u8; 6], LabError> {
        let told = self.complete("ip", &["-o", "link", "show", "dev", self.interface])?;
        let command = told.command.clone();
        let said = told.success()?;
        parse_mac(&said).ok_or(LabError::Output {
            command,
            problem: said,
        })
    }

    /// Answers at each of its addresses with its name, until what is returned is dropped, or the machine.
    fn answer(&self, log: &Path) -> Result<Vec<Process>, LabError> {
        let mut servers = Vec::new();
        for address in &self.addresses {
            let at = SocketAddr::new(*address, PORT).to_string();
            match self.place {
                Place::Namespace(namespace) => {
                    let mut line = namespace.command(find_program()?.with_file_name(GUEST));
                    line.args(["answer", self.name, &at]);
                    servers.push(Process::spawn(line, log)?);
                }
                Place::Machine(machine) => {
                    machine.spawn(&[GUEST, "answer", self.name, &at], "/var/log/answer.log")?;
                }
            }
        }
        let port = format!(":{PORT}");
        wait_until(
            &format!("{} to answer with its name", self.name),
            PATIENCE,
            || {
                let listening = self.complete("ss", &["-Hltn", "sport", "=", &port])?.success()?;
                Ok(listening.lines().count() == self.addresses.len())
            },
        )?;
        Ok(servers)
    }

    /// One echo request with packets of `mtu` bytes, all of whose payload is this word, until it is answered: the other has to be
    /// found first.
    fn ping(&self, to: IpAddr, word: &str, mtu: u32) -> Result<(), LabError> {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let pattern: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let (to, size) = (to.to_string(), mtu.saturating_sub(headers).to_string());
        let words = [
            "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, "-p", &pattern, &to,
        ];
        let what = format!("an answer of {to} to a ping of {mtu} bytes from {}", self.name);
        wait_until(&what, PATIENCE, || {
            Ok(self.complete("ping", &words)?.status.success())
        })
    }

    /// Asks who is at another's address, over TCP and by a datagram that fills a packet of `mtu` bytes; it must be that other.
    fn ask(&self, to: &Station<'_>, address: IpAddr, word: &str, mtu: u32) -> Result<(), LabError> {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let at = SocketAddr::new(address, PORT).to_string();
        let largest = mtu.saturating_sub(headers).to_string();
        let told = self.complete(GUEST, &["ask", &at, "--word", word, "--largest", &largest])?;
        let command = told.command.clone();
        let answered = Answered::from_json(&told.success()?)?;
        if [&answered.tcp, &answered.udp].iter().all(|name| *name == to.name) {
            return Ok(());
        }
        Err(LabError::Output {
            command,
            problem: format!(
                "{} answered {}, not {}: {answered:?}",
                address, self.name, to.name
            ),
        })
    }
}

/// Has two stations meet, both ways, by each of their addresses, with packets of up to `mtu` bytes.
pub(super) fn meet(pair: &[Station<'_>; 2], marks: &Marks, mtu: u32, log: &Path) -> Result<(), LabError> {
    let [one, other] = pair;
    let _servers = [one.answer(log)?, other.answer(log)?];
    for (from, to) in [(one, other), (other, one)] {
        for address in &to.addresses {
            from.ping(*address, &marks.ping, mtu)?;
            from.ask(to, *address, &marks.talk, mtu)?;
        }
    }
    Ok(())
}

/// The link address in a line of `ip -o link`.
fn parse_mac(line: &str) -> Option<[u8; 6]> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "link/ether");
    let text = words.nth(1)?;
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_is_read() {
        let line = r"2: net1@if7: <BROADCAST,UP> mtu 1450 \    link/ether 02:00:00:00:09:40 brd ff:ff:ff:ff:ff:ff link-netnsid 0";
        assert_eq!(parse_mac(line), Some([2, 0, 0, 0, 9, 0x40]));
        assert_eq!(
            parse_mac(r"1: lo: <LOOPBACK> mtu 65536 \    link/loopback 00:00"),
            None
        );
    }
}

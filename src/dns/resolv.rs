//! `resolv.conf`: the node's own name servers (resolv.conf(5)).

use std::net::IpAddr;

/// The addresses in `nameserver` lines. One with a zone (`fe80::1%eth0`) is left out: it says nothing without the link.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let word = words.next().filter(|word| *word == "nameserver");
        word.and(words.next())?.parse().ok()
    });
    let mut found = Vec::new();
    for server in servers {
        if !found.contains(&server) {
            found.push(server);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_among_everything_else() {
        let text = "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch example.com\nnameserver 192.0.2.3 # x\n\
                    \tnameserver\t2001:db8::53\nnameserver fe80::1%eth0\nnameserver\nnameservers 192.0.2.4\n\
                    nameserver 192.0.2.3\noptions ndots:2";
        let expected: [IpAddr; 2] = ["192.0.2.3".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
        assert_eq!(name_servers(""), Vec::<IpAddr>::new());
    }
}

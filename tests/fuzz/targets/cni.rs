//! What a container runtime hands to the CNI plugin: whatever it is, it is read without a panic; what is accepted is sound,
//! and what is refused is told in one line of JSON with a code of the specification.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_cni::call::{Call, Command, is_name};
use millrace_cni::config::{Config, version_text};
use millrace_cni::error::CniError;

fuzz_target!(|data: &[u8]| {
    // What stands before a zero byte is the arguments, the rest is standard input.
    let split = data.iter().position(|byte| *byte == 0);
    let (args, input) = split.map_or((&[][..], data), |place| (&data[..place], &data[place + 1..]));
    check_call(&String::from_utf8_lossy(args));
    for command in [Command::Add, Command::Gc] {
        match Config::read(input, command) {
            Ok(config) => check_config(&config),
            Err(error) => check_error(&error, &version_text(input)),
        }
    }
});

fn check_call(text: &str) {
    let call = Call::read(&|name| {
        Some(match name {
            "CNI_COMMAND" => "ADD".to_owned(),
            "CNI_CONTAINERID" | "CNI_IFNAME" | "CNI_ARGS" => text.to_owned(),
            _ => "/run/netns/x".to_owned(),
        })
    });
    match call {
        Ok(call) => {
            assert!(is_name(&call.container) && !call.container.contains('/'));
            assert!(!call.interface.contains('/') && call.interface.len() < 16);
            assert!(call.pod.contains('/'));
        }
        Err(error) => check_error(&error, ""),
    }
}

fn check_config(config: &Config) {
    assert!(is_name(&config.network));
    for mapping in &config.port_mappings {
        assert!(mapping.host_port != 0 && mapping.container_port != 0);
    }
    assert!(config.ips.len() <= 2);
}

fn check_error(error: &CniError, version: &str) {
    assert!(error.code > 0 && error.code < 8, "{error:?}");
    let text = error.to_json(version);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
}

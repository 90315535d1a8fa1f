#![allow(clippy::unwrap_used, clippy::panic)]

use pcap_file::pcapng::{Block, PcapNgReader};

use super::*;

const TIME: Duration = Duration::new(1_700_000_000, 123_456_789);

fn written(packets: &[(CaptureDirection, &str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = PcapngFile::new(&mut bytes, "eth1", "uplink").unwrap();
    for (direction, comment, packet) in packets {
        file.write(TIME, *direction, comment, packet).unwrap();
    }
    file.flush().unwrap();
    bytes
}

#[test]
fn file_reads_back_as_it_was_written() {
    let long = "é".repeat(2 * COMMENT_MAX_CHARS);
    let packets: [(CaptureDirection, &str, &[u8]); 4] = [
        (CaptureDirection::Received, "drop no_route", &[1, 2, 3]),
        (CaptureDirection::Sent, "from default/web-0", &[0; 64]),
        (CaptureDirection::Sent, "", &[]),
        (CaptureDirection::Received, &long, &[7; 2048]),
    ];
    let bytes = written(&packets);
    let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
    let Some(Ok(Block::InterfaceDescription(interface))) = reader.next_block() else {
        panic!("no interface")
    };
    assert_eq!(interface.linktype, DataLink::ETHERNET);
    assert!(
        interface
            .options
            .contains(&InterfaceDescriptionOption::IfName("eth1".into()))
    );
    assert!(
        interface
            .options
            .contains(&InterfaceDescriptionOption::IfDescription("uplink".into()))
    );
    assert!(
        interface
            .options
            .contains(&InterfaceDescriptionOption::IfTsResol(9))
    );
    for (direction, comment, data) in packets {
        let Some(Ok(Block::EnhancedPacket(packet))) = reader.next_block() else {
            panic!("no packet")
        };
        assert_eq!(
            (packet.timestamp, packet.data.as_ref(), packet.interface_id),
            (TIME, data, 0)
        );
        assert_eq!(usize::try_from(packet.original_len).unwrap(), data.len());
        let comment: String = comment.chars().take(COMMENT_MAX_CHARS).collect();
        let flag = if direction == CaptureDirection::Received {
            0b01
        } else {
            0b10
        };
        let options = [
            EnhancedPacketOption::Comment(comment.into()),
            EnhancedPacketOption::Flags(flag),
        ];
        assert_eq!(packet.options, options);
    }
    assert!(reader.next_block().is_none());
}

#[test]
fn closed_pipe_is_told_as_such() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = PcapngFile::new(Closed, "eth1", "uplink").err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

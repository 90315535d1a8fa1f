use super::*;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("millrace-flows-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("flows")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const BOOT: u64 = 0x1234;
/// When the file is opened.
const NOW: Tick = Tick::from_seconds(1000);

fn open(folder: &Folder, connections: u32) -> (FlowTable, Adopted) {
    FlowTable::open(&folder.file(), BOOT, &options(connections), NOW).unwrap()
}

fn tcp(number: u32) -> New<Ipv4Addr> {
    New {
        reply: tuple(IpProtocol::TCP, (9_000_000, 8080), (number, 40_000)),
        opener: Some(port(5)),
        binding: Some(Binding {
            service: 1,
            backend: number,
        }),
        ..plain(tuple(IpProtocol::TCP, (number, 40_000), (1, 80)))
    }
}

fn segment(sequence: u32, acknowledgment: u32, flags: TcpFlags) -> TcpSegment {
    TcpSegment {
        sequence,
        acknowledgment,
        flags,
        ..SYN
    }
}

fn establish(table: &FlowTable, new: &New<Ipv4Addr>, now: Tick) -> Claimed {
    let id = table.v4().claim(new, now).unwrap();
    let syn_ack = segment(5000, 1001, TcpFlags::SYN.with(TcpFlags::ACK));
    assert_eq!(table.v4().track_tcp(id.reply, &syn_ack), TcpVerdict::Accept);
    let ack = segment(1001, 5001, TcpFlags::ACK);
    assert_eq!(table.v4().track_tcp(id.original, &ack), TcpVerdict::Accept);
    id
}

#[test]
fn connections_live_on_in_the_next_process() {
    let folder = Folder::new("live-on");
    let six = balanced::<Ipv6Addr>(3);
    {
        let (table, adopted) = open(&folder, 100);
        assert_eq!(adopted, Adopted::default(), "there was no file");
        for number in 0..50 {
            let id = establish(&table, &tcp(number), at(100 + number));
            assert!(table.v4().store_answer(id.original, &answer(12)));
        }
        let gone = table.v4().lookup(&tcp(7).original).unwrap();
        assert!(table.v4().remove(gone.id));
        table.v6().claim(&six, at(5)).unwrap();
        table.remember_epoch(Epoch(12));
        let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let (table, adopted) = open(&folder, 100);
    assert_eq!((adopted.kept, adopted.lost, adopted.refused), (50, 0, None));
    assert!(table.first_epoch().is_after(Epoch(12)));
    assert_eq!((table.v4().len(), table.v6().len()), (49, 1));
    assert!(table.v6().lookup(&six.reply).unwrap().rewrite.is_some());
    assert!(table.v4().lookup(&tcp(7).original).is_none());
    assert_eq!(
        table.opened_by(port(5)),
        0,
        "whose port 5 is now is not known yet"
    );
    table.assign_openers(|_, _| Some(port(6)));
    assert_eq!(table.opened_by(port(6)), 50);
    for number in (0..50).filter(|number| *number != 7) {
        let new = tcp(number);
        let flow = table.v4().lookup(&new.original).unwrap();
        assert_eq!(
            flow.rewrite.unwrap().tuple(new.reply.protocol, new.reply.network),
            new.reply.reversed()
        );
        assert_eq!((flow.answer, flow.last_seen), (None, at(100 + number)));
        let connection = table.v4().connection(flow.id).unwrap();
        assert_eq!(
            (connection.binding, connection.created),
            (new.binding, at(100 + number))
        );
        assert_eq!(connection.state, ProtocolState::Tcp(TcpState::Established));
        let blind = segment(77_000_000, 0, TcpFlags::RST);
        assert_eq!(
            table.v4().track_tcp(flow.id, &blind),
            TcpVerdict::OutOfWindow,
            "the windows are remembered"
        );
    }
    assert_eq!(
        table.v4().claim(&tcp(1), at(1)),
        Err(ClaimError::Raced),
        "a tuple is taken still"
    );
}

#[test]
fn other_capacities_keep_what_they_can_and_the_established_first() {
    let folder = Folder::new("capacities");
    {
        let (table, _) = open(&folder, 100);
        for number in 0..60 {
            table.v4().claim(&tcp(1000 + number), at(1)).unwrap();
        }
        for number in 0..30 {
            establish(&table, &tcp(number), at(1));
        }
    }
    let (table, adopted) = open(&folder, 40);
    assert_eq!((adopted.kept, adopted.lost), (40, 50));
    for number in 0..30 {
        assert!(table.v4().lookup(&tcp(number).original).is_some());
    }
    drop(table);
    let (table, adopted) = open(&folder, 5000);
    assert_eq!((adopted.kept, adopted.lost, table.v4().capacity()), (40, 0, 5000));
}

#[test]
fn one_process_has_the_file() {
    let folder = Folder::new("lock");
    let (table, _) = open(&folder, 10);
    table.v4().claim(&tcp(1), at(1)).unwrap();
    let second = FlowTable::open(&folder.file(), BOOT, &options(10), NOW);
    assert!(matches!(second, Err(FlowTableError::InUse { .. })), "{second:?}");
    assert!(table.v4().lookup(&tcp(1).original).is_some());
    drop(table);
    assert_eq!(open(&folder, 10).1.kept, 1);
}

#[test]
fn what_is_no_flow_file_of_ours_is_refused_by_reason_and_replaced() {
    type Damage = fn(&fs::File);
    let rows: [(&str, Damage, FileRefusal); 6] = [
        (
            "empty",
            |file| file.set_len(0).unwrap(),
            FileRefusal::NotAFlowFile,
        ),
        (
            "another's",
            |file| file.write_all_at(b"GIF89a--", 0).unwrap(),
            FileRefusal::NotAFlowFile,
        ),
        (
            "a later layout",
            |file| file.write_all_at(&99_u64.to_ne_bytes(), 8).unwrap(),
            FileRefusal::Layout(99),
        ),
        (
            "another capacity",
            |file| file.write_all_at(&9_u64.to_ne_bytes(), 16).unwrap(),
            FileRefusal::Damaged,
        ),
        (
            "no end",
            |file| file.set_len(3 << 20).unwrap(),
            FileRefusal::Damaged,
        ),
        (
            "too many connections",
            |file| file.write_all_at(&[0xff; 8], 24).unwrap(),
            FileRefusal::Damaged,
        ),
    ];
    for (name, damage, refusal) in rows {
        let folder = Folder::new("refused");
        open(&folder, 10).0.v4().claim(&tcp(1), at(1)).unwrap();
        damage(&fs::OpenOptions::new().write(true).open(folder.file()).unwrap());
        let (table, adopted) = open(&folder, 10);
        assert_eq!(adopted.refused, Some(refusal), "{name}");
        assert_eq!((adopted.kept, table.v4().len()), (0, 0), "{name}");
        table.v4().claim(&tcp(2), at(1)).unwrap();
        drop(table);
        assert_eq!(open(&folder, 10).1.kept, 1, "{name}: and then it is ours");
    }
}

#[test]
fn nothing_was_seen_later_than_now() {
    let folder = Folder::new("future");
    open(&folder, 10).0.v4().claim(&tcp(1), at(5000)).unwrap();
    let (table, _) = open(&folder, 10);
    let flow = table.v4().lookup(&tcp(1).original).unwrap();
    assert_eq!(flow.last_seen, NOW);
    assert_eq!(table.v4().lookup(&tcp(1).reply).unwrap().last_seen, Tick::NEVER);
}

#[test]
fn another_start_of_the_machine_forgets() {
    let folder = Folder::new("boot");
    open(&folder, 10).0.v4().claim(&tcp(1), at(1)).unwrap();
    let (table, adopted) = FlowTable::open(&folder.file(), BOOT + 1, &options(10), NOW).unwrap();
    assert_eq!(adopted.refused, Some(FileRefusal::OtherBoot));
    assert!(table.v4().is_empty());
}

/// Whatever bits the records are of, nothing is believed of them but what makes sense.
#[test]
fn damaged_records_are_left_behind_without_harm() {
    let folder = Folder::new("damaged");
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut lost = 0;
    for _ in 0..20 {
        {
            let (table, _) = open(&folder, 40);
            for number in 0..40 {
                let _ = table.v4().claim(&tcp(number), at(1));
            }
        }
        let file = fs::OpenOptions::new().write(true).open(folder.file()).unwrap();
        for _ in 0..200 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = (2 << 20) + 64 + random % (40 * 192);
            file.write_all_at(&[(random >> 32) as u8], offset).unwrap();
        }
        let (table, adopted) = open(&folder, 40);
        assert_eq!(adopted.kept, table.v4().len());
        assert!(adopted.kept + adopted.lost <= 40);
        lost += 40 - adopted.kept;
        for connection in table.v4().connections() {
            let there = table.v4().lookup(&connection.original).unwrap();
            let leaves = there.rewrite.map_or(connection.original, |rewrite| {
                rewrite.tuple(connection.original.protocol, connection.original.network)
            });
            assert_eq!(leaves, connection.reply.reversed());
            assert_eq!(
                table.v4().lookup(&connection.reply).unwrap().id.record(),
                there.id.record()
            );
        }
        let all = table.v4().remove_where(|_| true);
        assert_eq!((all, table.v4().len()), (adopted.kept, 0));
    }
    assert!(lost > 0, "no damage was seen");
}

#[test]
fn errors_name_the_file_and_what_was_being_done() {
    let path = Path::new("/nonexistent/folder/flows");
    let error = FlowTable::open(path, BOOT, &options(10), NOW)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nonexistent/folder/flows") && error.contains("open"),
        "{error}"
    );
}

/// Whoever gives networks other numbers has them removed.
#[test]
fn connections_stay_in_their_networks() {
    let folder = Folder::new("networks");
    let in_network = |tuple: Tuple<Ipv4Addr>| Tuple {
        network: NetworkId::new(4),
        ..tuple
    };
    {
        let (table, _) = open(&folder, 100);
        table.v4().claim(&tcp(1), at(1)).unwrap();
        let other = New {
            original: in_network(tcp(1).original),
            reply: in_network(tcp(1).reply),
            ..tcp(1)
        };
        table.v4().claim(&other, at(1)).unwrap();
        assert_eq!(table.v4().len(), 2, "equal tuples of two networks");
    }
    let (table, adopted) = open(&folder, 100);
    assert_eq!((adopted.kept, adopted.lost), (2, 0));
    for original in [tcp(1).original, in_network(tcp(1).original)] {
        assert!(table.v4().lookup(&original).is_some());
    }
    let removed = table
        .v4()
        .remove_where(|connection| connection.original.network == NetworkId::new(4));
    assert_eq!(removed, 1);
    assert!(table.v4().lookup(&tcp(1).original).is_some());
}

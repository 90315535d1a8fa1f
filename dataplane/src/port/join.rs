//! Packets that the kernel hands over in pieces (`XDP_USE_SG`): joined in a run as they are received.
//!
//! Source: kernel documentation, `networking/af_xdp`, "Multi-Buffer Support". All pieces of a packet become visible at once and in
//! order; `XDP_PKT_CONTD` in a descriptor says that another follows.

use crate::frame::{Frame, Pool};

/// The packet that is being joined.
#[derive(Debug, Default)]
pub(super) struct Join {
    run: Option<Frame>,
    /// Pieces come that belong together.
    open: bool,
    without_run: u64,
    too_long: u64,
}

impl Join {
    /// Whether the next piece belongs to a packet that has begun.
    #[inline(always)]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Packets lost because no run was free.
    pub(super) fn without_run(&self) -> u64 {
        self.without_run
    }

    /// Packets lost because a run has no room for so much.
    pub(super) fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Takes a piece, and after the last one hands the packet on. A piece that cannot be had, which its port counts as a stray,
    /// makes a packet incomplete, which is not handed on.
    #[cold]
    pub(super) fn piece(&mut self, pool: &mut Pool, piece: Option<Frame>, more: bool, into: &mut Vec<Frame>) {
        if !self.open {
            self.run = pool.take_run();
            self.without_run += u64::from(self.run.is_none());
        }
        self.open = more;
        let fits = match (&mut self.run, &piece) {
            (Some(run), Some(piece)) => run.append(piece.bytes()).is_ok(),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if !fits && let Some(run) = self.run.take() {
            pool.give(run);
            self.too_long += u64::from(piece.is_some());
        }
        if let Some(piece) = piece {
            pool.give(piece);
        }
        if !more {
            into.extend(self.run.take());
        }
    }

    /// Gives back the run of a packet that is not whole: its other pieces are not coming any more.
    pub(super) fn give_up(&mut self, pool: &mut Pool) {
        self.open = false;
        if let Some(run) = self.run.take() {
            pool.give(run);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::MAX_PACKET_LEN;

    fn pool() -> Pool {
        let mut pool = Pool::on_heap(20);
        pool.keep_runs(1);
        pool
    }

    fn lost(join: &Join) -> (u64, u64) {
        (join.without_run(), join.too_long())
    }

    #[test]
    fn pieces_become_one_packet() {
        let (mut pool, mut join, mut packets) = (pool(), Join::default(), Vec::new());
        let packet: Vec<u8> = (0..9014_u32).map(|n| (n % 251) as u8).collect();
        let pieces: Vec<&[u8]> = packet.chunks(MAX_PACKET_LEN).collect();
        for (place, piece) in pieces.iter().enumerate() {
            assert_eq!(join.is_open(), place > 0);
            let piece = pool.take_with(piece).unwrap();
            join.piece(&mut pool, Some(piece), place + 1 < pieces.len(), &mut packets);
        }
        let whole = packets.pop().unwrap();
        assert!(packets.is_empty() && !join.is_open());
        assert_eq!(whole.bytes(), packet);
        pool.give(whole);
        assert_eq!((pool.census().free, lost(&join)), (20, (0, 0)));
    }

    #[test]
    fn a_packet_without_a_run_too_long_or_with_a_piece_missing_is_lost_whole() {
        let (mut pool, mut join, mut packets) = (pool(), Join::default(), Vec::new());
        let taken = pool.take_run().unwrap();
        for more in [true, true, false] {
            let piece = pool.take_with(&[1; 100]);
            join.piece(&mut pool, piece, more, &mut packets);
        }
        assert_eq!((packets.len(), lost(&join)), (0, (1, 0)));
        pool.give(taken);
        for more in [true, true, true, true, true, true, true, false] {
            let piece = pool.take_with(&[1; MAX_PACKET_LEN]);
            join.piece(&mut pool, piece, more, &mut packets);
        }
        assert_eq!((packets.len(), lost(&join)), (0, (1, 1)));
        for (piece, more) in [(true, true), (false, true), (true, false)] {
            let piece = if piece { pool.take_with(&[1; 100]) } else { None };
            join.piece(&mut pool, piece, more, &mut packets);
        }
        assert_eq!((packets.len(), lost(&join), pool.census().free), (0, (1, 1), 20));
    }

    #[test]
    fn half_a_packet_is_given_back_when_its_port_goes() {
        let (mut pool, mut join, mut packets) = (pool(), Join::default(), Vec::new());
        let piece = pool.take_with(&[1; 100]);
        join.piece(&mut pool, piece, true, &mut packets);
        assert_eq!((join.is_open(), pool.available_runs()), (true, 0));
        join.give_up(&mut pool);
        assert_eq!(
            (join.is_open(), pool.available_runs(), pool.census().free),
            (false, 1, 20)
        );
        join.give_up(&mut pool);
        assert_eq!(pool.census().free, 20);
    }
}

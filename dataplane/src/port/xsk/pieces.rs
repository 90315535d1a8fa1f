//! Packets of several pieces, as a socket takes them.

use super::XskPort;
use crate::frame::{Frame, Parts, Pool};

impl XskPort {
    /// Queues a packet in a run: all of its parts, or none.
    #[cold]
    pub(super) fn send_run(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        // INVARIANT: a run has a handful of chunks.
        #[allow(clippy::cast_possible_truncation)]
        let count = Parts::of(&frame).as_slice().len() as u32;
        if self.in_flight + count > self.socket.rings.umem || !self.socket.transmit.has_room(count) {
            return Err(frame);
        }
        let parts = pool.lend_run(frame, self.holder);
        let mut left = count;
        for part in parts.as_slice() {
            left -= 1;
            let pushed = self.socket.transmit.push(libc::xdp_desc {
                addr: part.address,
                len: part.len,
                options: if left > 0 { libc::XDP_PKT_CONTD } else { 0 },
            });
            debug_assert!(pushed, "there was room a moment ago");
        }
        self.in_flight += count;
        Ok(())
    }
}

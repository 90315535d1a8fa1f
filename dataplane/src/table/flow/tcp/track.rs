//! How far a connection has come.

use super::window::{Side, is_after};
use super::{SCALE_MAX, TcpSegment, TcpState, TcpVerdict};
use crate::table::flow::tuple::Direction;
use crate::wire::TcpFlags;

/// A connection, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) struct Connection {
    pub(in crate::table::flow) state: TcpState,
    /// The side of the original direction first.
    pub(super) sides: [Side; 2],
    /// A SYN that came in the middle, and may turn out to be a new beginning.
    pub(super) asked: Option<Asked>,
}

/// A SYN in the middle of a connection: one end has perhaps started anew, and only the other knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// What a SYN-ACK to it acknowledges.
    pub(super) next: u32,
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
    pub(super) by: Direction,
}

impl Connection {
    /// A connection whose first segment this is; `None` if it begins none. In its middle it begins if that is allowed
    /// (`loose`).
    pub(in crate::table::flow) fn open(segment: &TcpSegment, loose: bool) -> Option<Self> {
        if !segment.is_sensible() || segment.has(TcpFlags::RST) {
            return None;
        }
        let is_ack = segment.has(TcpFlags::ACK);
        match segment.has(TcpFlags::SYN) {
            true if !is_ack => Some(Self::of_syn(segment)),
            false if loose => Some(Self::of_middle(segment)),
            _ => None,
        }
    }

    fn of_syn(segment: &TcpSegment) -> Self {
        Self {
            state: TcpState::SynSent,
            sides: [Side::of_syn(segment), Side::default()],
            asked: None,
        }
    }

    fn of_middle(segment: &TcpSegment) -> Self {
        Self {
            state: TcpState::PickedUp,
            sides: [Side::of_middle(segment), Side::default()],
            asked: None,
        }
    }

    /// Forgets both windows: what the process that wrote them left is not whole. They are learnt anew.
    pub(in crate::table::flow) fn forget_windows(&mut self) {
        self.sides = [Side::default(); 2];
        self.asked = None;
    }

    /// Judges a segment of one direction, and follows the connection.
    #[inline]
    pub(in crate::table::flow) fn track(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        // What comes by far the most often first: data and acknowledgments of an established connection.
        const RARE: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
        if self.state == TcpState::Established
            && segment.has(TcpFlags::ACK)
            && !segment.flags.intersects(RARE)
            && self.sides.iter().all(|side| side.is_heard)
        {
            let (own, other) = self.sides_of(direction);
            if own.allows(other, segment) {
                own.learn(other, segment);
                return TcpVerdict::Accept;
            }
        }
        self.track_rare(direction, segment)
    }

    fn track_rare(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        if !segment.is_sensible() {
            return TcpVerdict::Invalid;
        }
        let is_ack = segment.has(TcpFlags::ACK);
        if segment.has(TcpFlags::RST) {
            self.reset(direction, segment)
        } else if !segment.has(TcpFlags::SYN) {
            self.data(direction, segment)
        } else if is_ack {
            self.syn_ack(direction, segment)
        } else {
            self.syn(direction, segment)
        }
    }

    /// The side that a segment comes from, and the other.
    #[inline]
    fn sides_of(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        let [original, reply] = &mut self.sides;
        match direction {
            Direction::Original => (original, reply),
            Direction::Reply => (reply, original),
        }
    }

    fn syn(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        match (self.state, direction) {
            (TcpState::TimeWait | TcpState::Reset, _) => return TcpVerdict::Reopen,
            // Sent again, or the client has begun anew before anyone answered.
            (TcpState::SynSent | TcpState::PickedUp, Direction::Original) => *self = Self::of_syn(segment),
            // Both at once (RFC 9293 section 3.5).
            (TcpState::SynSent, Direction::Reply) => self.answer(segment),
            // In a connection that goes on it tears down nothing. Its receiver knows better (RFC 5961 section 4): an
            // answering SYN-ACK says that it, too, begins anew.
            _ => {
                self.asked = Some(Asked {
                    next: segment.end(),
                    window: segment.window,
                    scale: segment.window_scale,
                    by: direction,
                });
            }
        }
        TcpVerdict::Accept
    }

    fn syn_ack(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        let ack = segment.acknowledgment;
        match (self.state, direction) {
            (TcpState::SynSent, Direction::Reply) => {
                let asking = &self.sides[0];
                // Data in a SYN need not be acknowledged with it (RFC 7413). An old SYN-ACK passes and changes
                // nothing: the client answers with the reset that is due.
                if !is_after(asking.limit, ack) && !is_after(ack, asking.end) {
                    self.answer(segment);
                }
            }
            // The end of an opening from both sides at once.
            (TcpState::SynReceived, Direction::Original) if ack == self.sides[1].end => self.establish(),
            _ => {
                let answered = self
                    .asked
                    .filter(|asked| asked.next == ack && asked.by != direction);
                if let Some(asked) = answered.filter(|asked| self.is_new(*asked, segment)) {
                    self.begin_anew(asked, segment);
                }
            }
        }
        TcpVerdict::Accept
    }

    /// The other side begins too: by a SYN-ACK, or by a SYN of its own.
    fn answer(&mut self, segment: &TcpSegment) {
        let mut answering = Side::of_syn(segment);
        let asking = &mut self.sides[0];
        answering.acked = asking.limit;
        asking.acked = answering.limit;
        asking.limit = asking.end.wrapping_add(answering.window);
        answering.limit = answering.end.wrapping_add(asking.window);
        self.sides[1] = answering;
        self.agree_on_scale();
        self.state = TcpState::SynReceived;
    }

    /// Whether a SYN and the SYN-ACK to it are of a new connection, and not both of them late copies of those that this
    /// one began with: the numbers of these are behind what both sides have sent since.
    fn is_new(&mut self, asked: Asked, segment: &TcpSegment) -> bool {
        let (asking, answering) = self.sides_of(asked.by);
        is_after(asked.next, asking.end) || is_after(segment.end(), answering.end)
    }

    /// A SYN in the middle was answered by a SYN-ACK: both ends have begun anew.
    fn begin_anew(&mut self, asked: Asked, segment: &TcpSegment) {
        let syn = TcpSegment {
            sequence: asked.next.wrapping_sub(1),
            acknowledgment: 0,
            window: asked.window,
            flags: TcpFlags::SYN,
            payload_len: 0,
            window_scale: asked.scale,
        };
        *self = Self::of_syn(&syn);
        self.answer(segment);
        if asked.by == Direction::Reply {
            self.sides.swap(0, 1);
        }
    }

    /// Windows are scaled only if both sides' SYN had the option (RFC 7323 section 2.2).
    fn agree_on_scale(&mut self) {
        if self.sides.iter().any(|side| !side.offers_scale) {
            self.sides.iter_mut().for_each(|side| side.scale = 0);
        }
    }

    fn establish(&mut self) {
        self.state = TcpState::Established;
        self.asked = None;
    }

    fn reset(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        let (state, ack) = (self.state, segment.acknowledgment);
        let is_ack = segment.has(TcpFlags::ACK);
        let (own, other) = self.sides_of(direction);
        if state == TcpState::SynSent {
            return match direction {
                // Refused: it has to acknowledge the SYN (RFC 9293 section 3.10.7.3).
                Direction::Reply if is_ack && !is_after(other.limit, ack) && !is_after(ack, other.end) => {
                    self.state = TcpState::Reset;
                    TcpVerdict::Accept
                }
                Direction::Reply => TcpVerdict::OutOfWindow,
                // To an acknowledgment of an older connection, which the server will forget; this one goes on.
                Direction::Original => TcpVerdict::Accept,
            };
        }
        if !own.is_heard || !other.is_heard {
            // Nothing is known to hold it against. Its receiver does; if it is right, nothing will follow.
            return TcpVerdict::Accept;
        }
        let sequence = segment.sequence;
        // Only the very number that is expected next ends the connection (RFC 5961 section 3): the one that the other
        // side has asked for, or the one after all that was sent.
        if sequence == other.acked || sequence == own.end {
            self.state = TcpState::Reset;
            return TcpVerdict::Accept;
        }
        // Another within the window is for its receiver to challenge.
        let expected = other.acked;
        if is_after(expected, sequence) || is_after(sequence, own.limit) {
            return TcpVerdict::OutOfWindow;
        }
        TcpVerdict::Accept
    }

    /// A segment with ACK, and without SYN and RST.
    fn data(&mut self, direction: Direction, segment: &TcpSegment) -> TcpVerdict {
        let state = self.state;
        let (own, other) = self.sides_of(direction);
        match state {
            // The server answers a SYN by an acknowledgment if it knows an older connection (RFC 5961 section 4); the
            // client's reset follows.
            TcpState::SynSent if direction == Direction::Reply => return TcpVerdict::Accept,
            TcpState::SynSent => return TcpVerdict::OutOfWindow,
            TcpState::Reset => return TcpVerdict::Accept,
            _ => {}
        }
        if !own.is_heard {
            if other.is_heard {
                let far = segment
                    .acknowledgment
                    .wrapping_sub(other.end)
                    .wrapping_add(1 << 30);
                if far > 1 << 30 {
                    return TcpVerdict::OutOfWindow; // acknowledges what was never sent, or long ago
                }
            }
            *own = Side::of_middle(segment);
            own.limit = own.end.wrapping_add(other.window);
        }
        if !other.is_heard {
            // All that is known of the other side is what this one says of it.
            other.end = segment.acknowledgment;
            other.limit = unscaled_limit(segment);
            own.learn(other, segment);
            self.close();
            return TcpVerdict::Accept;
        }
        if !own.allows(other, segment) {
            // Who opens a connection shows that he sees the other's packets: nothing is tolerated until then.
            if state == TcpState::SynReceived || !own.tolerates(other, segment) {
                return TcpVerdict::OutOfWindow;
            }
            self.close();
            return TcpVerdict::Accept;
        }
        let is_acked = segment.acknowledgment == other.end;
        own.learn(other, segment);
        match (state, direction) {
            // The third step of the handshake. Its number is the server's secret: who cannot see the server's packets
            // does not open a connection with a forged address.
            (TcpState::SynReceived, Direction::Original) if is_acked => self.establish(),
            (TcpState::PickedUp, Direction::Reply) => self.establish(),
            _ => {}
        }
        self.close();
        TcpVerdict::Accept
    }

    /// Goes on towards the end as far as both sides' FINs have come.
    fn close(&mut self) {
        if !matches!(
            self.state,
            TcpState::Established | TcpState::HalfClosed | TcpState::Closing
        ) {
            return;
        }
        let count = |is: fn(&Side) -> bool| self.sides.iter().filter(|side| is(side)).count();
        let (finished, acked) = (
            count(|side| side.has_finished),
            count(|side| side.is_finish_acked),
        );
        self.state = match (finished, acked) {
            (0, _) => TcpState::Established,
            (1, _) => TcpState::HalfClosed,
            (_, 2) => TcpState::TimeWait,
            _ => TcpState::Closing,
        };
    }
}

/// How far a side may go by what the other says, the scale of whose windows is not known.
fn unscaled_limit(segment: &TcpSegment) -> u32 {
    let window = u32::from(segment.window).max(1) << SCALE_MAX;
    segment.acknowledgment.wrapping_add(window)
}

//! Which queues a worker looks at in a turn: the busy ones in each, of the idle ones a few, in turn.
//!
//! A look at a queue costs little, and at hundreds of them more than the packets of two. So a queue that gave nothing for a
//! while is looked at every few turns: where all are idle a turn is over at once, and where some are busy a packet waits for
//! no more turns than there are idle queues to [`IDLE_LOOKS`].

/// Idle queues that are looked at in a turn.
const IDLE_LOOKS: usize = 16;
/// Looks in a row that find nothing before a queue counts as idle. Under load that is a tenth of a second or more: who speaks
/// now and then in bursts keeps every turn, for an idle pod's queue has room for few packets.
const PATIENCE: u16 = 4096;

/// The queues of a worker, by their places, and which of them are busy.
#[derive(Debug, Default)]
pub(super) struct Rota {
    /// The busy ones.
    busy: Vec<u16>,
    /// Of each queue, how many more looks may find nothing before it is idle; of the idle ones none.
    patience: Vec<u16>,
    /// The queue whose turn it is among the idle ones.
    next: usize,
}

impl Rota {
    /// Room for so many queues, and none yet.
    pub(super) fn with_capacity(queues: usize) -> Self {
        Self {
            busy: Vec::with_capacity(queues),
            patience: Vec::with_capacity(queues),
            next: 0,
        }
    }

    /// Begins anew with so many queues, which all count as busy: nothing is known of them yet.
    pub(super) fn begin(&mut self, queues: usize) {
        self.busy.clear();
        self.busy.extend((0..=u16::MAX).take(queues));
        self.patience.clear();
        self.patience.resize(queues, 0);
        for queue in 0..self.busy.len() {
            self.patience[queue] = PATIENCE;
        }
        self.next = 0;
    }

    /// The busy queue at `place`; `None` if there are no more.
    #[inline]
    pub(super) fn busy(&self, place: usize) -> Option<usize> {
        self.busy.get(place).map(|queue| usize::from(*queue))
    }

    /// Notes what a look at the busy queue at `place` found; answers the place of the next one.
    #[inline]
    pub(super) fn note(&mut self, place: usize, has_given: bool) -> usize {
        let Some(patience) = self
            .busy
            .get(place)
            .and_then(|queue| self.patience.get_mut(usize::from(*queue)))
        else {
            return place + 1;
        };
        *patience = if has_given { PATIENCE } else { *patience - 1 };
        if *patience == 0 {
            self.busy.swap_remove(place);
            return place;
        }
        place + 1
    }

    /// How many idle queues are to be looked at in a turn; all of them, if it is to leave out none.
    #[inline]
    pub(super) fn idle_looks(&self, is_thorough: bool) -> usize {
        let idle = self.patience.len().saturating_sub(self.busy.len());
        if is_thorough { idle } else { IDLE_LOOKS.min(idle) }
    }

    /// The next idle queue; `None` if all are busy.
    #[inline]
    pub(super) fn idle(&mut self) -> Option<usize> {
        let queues = self.patience.len();
        if self.busy.len() >= queues {
            return None;
        }
        for _ in 0..queues {
            let queue = self.next;
            self.next = if queue + 1 < queues { queue + 1 } else { 0 };
            if self.patience.get(queue) == Some(&0) {
                return Some(queue);
            }
        }
        None
    }

    /// Notes that an idle queue gave something.
    pub(super) fn wake(&mut self, queue: usize) {
        if let (Some(patience @ 0), Ok(number)) = (self.patience.get_mut(queue), u16::try_from(queue)) {
            *patience = PATIENCE;
            self.busy.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many queues, all of them idle.
    fn idle(queues: usize) -> Rota {
        let mut rota = Rota::with_capacity(queues);
        rota.begin(queues);
        for _ in 1..PATIENCE {
            assert_eq!(turn(&mut rota, &[]).len(), queues, "at first all are busy");
        }
        turn(&mut rota, &[]);
        assert_eq!(rota.busy(0), None);
        rota
    }

    /// The queues that one turn looks at, those in `giving` having something.
    fn turn(rota: &mut Rota, giving: &[usize]) -> Vec<usize> {
        let mut seen = Vec::new();
        let mut place = 0;
        while let Some(queue) = rota.busy(place) {
            seen.push(queue);
            place = rota.note(place, giving.contains(&queue));
        }
        for _ in 0..rota.idle_looks(false) {
            let Some(queue) = rota.idle() else { break };
            seen.push(queue);
            if giving.contains(&queue) {
                rota.wake(queue);
            }
        }
        seen
    }

    #[test]
    fn busy_queues_have_every_turn_and_idle_ones_their_own() {
        let mut rota = idle(100);
        let giving = [3, 70];
        let mut looks = [0_u32; 100];
        for _ in 0..70 {
            turn(&mut rota, &giving)
                .iter()
                .for_each(|queue| looks[*queue] += 1);
        }
        for (queue, looks) in looks.iter().enumerate() {
            if giving.contains(&queue) {
                // One round over all of them, until it is found.
                assert!(*looks >= 63, "{queue}: {looks}");
            } else {
                assert!((9..=13).contains(looks), "{queue}: {looks}");
            }
        }
    }

    #[test]
    fn a_queue_that_gives_nothing_becomes_idle_and_busy_again() {
        let mut rota = idle(40);
        while rota.busy(0).is_none() {
            turn(&mut rota, &[39]);
        }
        for _ in 0..PATIENCE {
            assert_eq!(turn(&mut rota, &[])[0], 39);
        }
        assert_eq!(rota.busy(0), None);
        for _ in 0..3 {
            turn(&mut rota, &[39]);
        }
        assert_eq!(rota.busy(0), Some(39));
    }

    #[test]
    fn few_queues_are_all_looked_at_in_every_turn() {
        let mut rota = idle(16);
        for giving in [&[][..], &[0], &[0, 15], &[]] {
            let mut seen = turn(&mut rota, giving);
            seen.sort_unstable();
            assert_eq!(seen, (0..16).collect::<Vec<_>>());
        }
        assert_eq!(
            [false, true].map(|is_thorough| idle(40).idle_looks(is_thorough)),
            [IDLE_LOOKS, 40]
        );
        assert_eq!((idle(0).idle(), idle(0).busy(0)), (None, None));
    }
}

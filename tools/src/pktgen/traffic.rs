//! What one sender sends: built packets of one or several sizes, or a recording.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::wire::checksum::Delta;

use super::marker::Marker;
use super::order::{Chooser, Order, Share};
use super::protocol::Protocol;
use super::rate::{Pace, Rate};
use super::replay::Replay;
use super::template::{Shape, Template, TemplateError, shortest};

/// The simple IMIX: seven frames of 64 bytes, four of 594 and one of 1518, the frame check sequence of 4 bytes that no
/// frame here contains included; and in which order.
pub const IMIX_WITHOUT_FCS: [usize; 3] = [60, 590, 1514];
const IMIX_PATTERN: [u8; 12] = [0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1];

/// Packets built from templates, which differ in size only.
#[derive(Debug, Clone)]
pub struct Mix {
    templates: Vec<Template>,
    /// Which template each of so many packets in a row is made from.
    pattern: Vec<u8>,
}

impl Mix {
    /// Packets of one size.
    #[must_use]
    pub fn one(template: Template) -> Self {
        Self {
            templates: vec![template],
            pattern: vec![0],
        }
    }

    /// The simple IMIX of this shape, whose own size does not matter. Where headers and mark need more than the smallest
    /// frame, that is as short as can be.
    ///
    /// # Errors
    /// As [`Template::of`].
    pub fn imix(shape: &Shape, protocol: Protocol) -> Result<Self, TemplateError> {
        let least = shortest(&shape.flows, protocol);
        let build = |len: usize| {
            let frame_len = len.max(least);
            Template::of(&Shape { frame_len, ..*shape }, protocol)
        };
        Ok(Self {
            templates: IMIX_WITHOUT_FCS
                .into_iter()
                .map(build)
                .collect::<Result<_, _>>()?,
            pattern: IMIX_PATTERN.to_vec(),
        })
    }

    /// The templates.
    #[must_use]
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// The template of packet `number`: the pattern moves on by one with every round of the flows, so that no flow has
    /// packets of one size only.
    #[inline]
    fn template(&self, number: u64) -> Option<&Template> {
        let [only] = self.templates.as_slice() else {
            let flows = u64::from(self.templates.first()?.flows().count());
            let place = (number + number / flows) % self.pattern.len() as u64;
            let which = *self.pattern.get(usize::try_from(place).ok()?)?;
            return self.templates.get(usize::from(which));
        };
        Some(only)
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// Built packets.
    Mix(Mix),
    /// A recording.
    Replay(Replay),
}

impl Traffic {
    /// The lengths of packets in their proportion, in bytes from the Ethernet header on.
    fn lengths(&self) -> Vec<usize> {
        match self {
            Self::Mix(mix) => {
                let len = |which: &u8| {
                    mix.templates
                        .get(usize::from(*which))
                        .map(|template| template.bytes().len())
                };
                mix.pattern.iter().filter_map(len).collect()
            }
            Self::Replay(replay) => replay.lengths().collect(),
        }
    }

    /// The mean length, in bytes without frame check sequence.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // INVARIANT: sums of frame lengths are far below 2^52.
    pub fn mean_len(&self) -> f64 {
        let lengths = self.lengths();
        lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64
    }

    /// The longest packet, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.lengths().into_iter().max().unwrap_or(0)
    }

    /// How many different flows there are, as far as it is known.
    #[must_use]
    pub fn flows(&self) -> u32 {
        match self {
            Self::Mix(mix) => mix
                .templates
                .first()
                .map_or(1, |template| template.flows().count()),
            Self::Replay(_) => 1,
        }
    }

    /// What one of several senders sends.
    #[must_use]
    pub fn share(&self, share: Share) -> Self {
        match self {
            Self::Mix(mix) => Self::Mix(mix.clone()),
            Self::Replay(replay) => Self::Replay(replay.share(share)),
        }
    }

    /// When one of `of` senders sends, for a rate of all together.
    pub(crate) fn pace(&self, rate: Rate, of: u32) -> Pace {
        match (rate, self) {
            (Rate::Recorded(speed), Self::Replay(replay)) => {
                let (at, round) = replay.times(speed);
                Pace::Times { at, round }
            }
            _ => {
                let rate = rate.packets_per_second(self.mean_len());
                Pace::of(rate.map(|rate| rate / f64::from(of.max(1))))
            }
        }
    }

    /// How many of the first `packets` sent have no mark.
    pub(crate) fn unmarked_among(&self, packets: u64) -> u64 {
        match self {
            Self::Mix(_) => 0,
            Self::Replay(replay) => packets - replay.marked_among(packets),
        }
    }
}

/// Writes one packet after the other.
#[derive(Debug)]
pub(crate) struct Writer {
    traffic: Traffic,
    chooser: Chooser,
    run: u16,
}

impl Writer {
    pub(crate) fn new(mut traffic: Traffic, order: Order, share: Share, run: u16, seed: u64) -> Self {
        if let Traffic::Mix(mix) = &mut traffic {
            mix.templates
                .iter_mut()
                .for_each(|template| template.set_run(run));
        }
        Self {
            chooser: Chooser::new(order, share, traffic.flows(), seed),
            traffic,
            run,
        }
    }

    pub(crate) fn unmarked_among(&self, packets: u64) -> u64 {
        self.traffic.unmarked_among(packets)
    }

    /// Whether there is anything to send.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.traffic, Traffic::Replay(replay) if replay.is_empty())
    }

    /// Makes packet `number`, due at `time`, in `frame`. `false` if that cannot be, which it always can.
    #[inline]
    pub(crate) fn write(&mut self, frame: &mut Frame, number: u64, time: u64) -> bool {
        match &self.traffic {
            Traffic::Mix(mix) => {
                let Some(template) = mix.template(number) else {
                    return false;
                };
                let flow = self.chooser.next(number);
                // INVARIANT: the template fits a frame and can be stamped: its maker has tried.
                frame.fill(template.bytes()).is_ok()
                    && template.stamp_at(frame.bytes_mut(), flow, number, time).is_ok()
            }
            Traffic::Replay(replay) => {
                let Some((bytes, stamp)) = replay.packet(number) else {
                    return false;
                };
                // INVARIANT: as above, when the file was read.
                frame.fill(bytes).is_ok()
                    && stamp.is_none_or(|(stamp, sequence)| {
                        let marker = Marker {
                            run: self.run,
                            sequence,
                            time,
                        };
                        stamp.write(frame.bytes_mut(), marker, Delta::ZERO).is_ok()
                    })
            }
        }
    }
}

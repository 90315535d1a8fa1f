//! Making a frame's packet another one, by writing no more than its head: nothing else becomes warm in a cache.

use anyhow::Context;
use millrace_dataplane::frame::Frame;
use millrace_tools::pktgen::Template;

/// Makes a frame's packet a fresh one of this flow of the template's, by writing no more than its head. Its sequence number
/// is that of its flow among all.
pub(super) fn renew(frame: &mut Frame, template: &Template, flow: u32, number: u32) -> anyhow::Result<()> {
    let head = template.head();
    frame
        .bytes_mut()
        .get_mut(..head.len())
        .context("a frame is shorter than its head")?
        .copy_from_slice(head);
    template.stamp(frame.bytes_mut(), flow, u64::from(number))?;
    Ok(())
}

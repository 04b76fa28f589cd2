//! An image's tree as a tar archive, by the distribution's `sqfs2tar`.

use std::path::Path;
use std::time::Duration;

use crate::context::Context;
use crate::error::Result;
use crate::tool::{self, AtOurEnd, Output, Watch};

const TOOL: &str = "sqfs2tar";
const PACKAGE: &str = "squashfs-tools-ng";
/// The largest images take minutes; a tool that hangs is ended.
const TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// The archive, with the root's own owner, mode and time as its first entry.
pub(super) fn stream(image: &Path, ctx: &Context) -> Result<Output> {
    let program = tool::require(TOOL, PACKAGE)?;
    let mut command = tool::contained(&program, AtOurEnd::Kill);
    // What cannot be stored is an error: an archive without it would be another tree.
    command.args(["--root-becomes", ".", "--no-skip", "--"]).arg(image);
    let watch = Watch {
        tool: TOOL,
        subject: image.to_owned(),
        time_max: TIME_MAX,
        is_cause: |_| true,
        on_line: Box::new(|_| {}),
    };
    Output::start(&mut command, watch, ctx)
}

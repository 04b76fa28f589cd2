//! The terminal that bars are drawn on.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

/// Rows and columns of a terminal that does not tell.
const DEFAULT_SIZE: (u16, u16) = (24, 80);
/// The name of a terminal that cannot move its cursor.
const DUMB: &str = "dumb";

/// A terminal whose cursor rests at the beginning of the last line drawn.
///
/// Lines are drawn to the window's edge. A cursor that rested there would be moved to the next line by the `^C` that the
/// system writes when somebody gives up, and by whatever else is typed meanwhile; everything would then be taken for one
/// line lower than it is, and the uppermost bar stay on the screen for ever.
pub(crate) struct Screen<W> {
    out: Mutex<Buffered<W>>,
    size: fn() -> (u16, u16),
}

struct Buffered<W> {
    to: W,
    /// Text that was not flushed yet: the screen changes at once.
    pending: String,
}

impl Screen<io::Stderr> {
    /// The one of stderr; None if that is no terminal, or one that bars cannot be drawn on.
    pub(crate) fn of_stderr() -> Option<Self> {
        let draws = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var("TERM").is_ok_and(can_draw);
        draws.then(|| Self::new(io::stderr(), size))
    }
}

fn can_draw(terminal: String) -> bool {
    !terminal.is_empty() && terminal != DUMB
}

/// The size of stderr's terminal, whose window may change at any time.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => DEFAULT_SIZE,
    }
}

impl<W: Write> Screen<W> {
    fn new(to: W, size: fn() -> (u16, u16)) -> Self {
        Self { out: Mutex::new(Buffered { to, pending: String::new() }), size }
    }

    fn out(&self) -> MutexGuard<'_, Buffered<W>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &str) -> io::Result<()> {
        self.out().pending.push_str(text);
        Ok(())
    }

    /// An ECMA-48 cursor movement; none for no steps, which terminals take for one.
    fn step(&self, steps: usize, direction: char) -> io::Result<()> {
        if steps > 0 { self.put(&format!("\x1b[{steps}{direction}")) } else { Ok(()) }
    }
}

impl<W: Write + Send> TermLike for Screen<W> {
    fn width(&self) -> u16 {
        (self.size)().1
    }

    fn height(&self) -> u16 {
        (self.size)().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.step(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.step(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.step(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.step(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text)?;
        self.put("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let mut out = self.out();
        out.pending.push('\r');
        let text = std::mem::take(&mut out.pending);
        out.to.write_all(text.as_bytes())?;
        out.to.flush()
    }
}

impl<W> fmt::Debug for Screen<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

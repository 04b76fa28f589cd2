//! At a terminal vmette is a terminal program: the guest's shell has it, and it is as it was afterwards.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::machine::{LIMIT, Running, VMETTE, Vmette, shared_cache};
use crate::stream::Stream;

/// Of the window at first.
const ROWS: u16 = 33;
const COLUMNS: u16 = 101;

/// A terminal with somebody in front of it.
pub(crate) struct Terminal {
    keyboard: File,
    screen: Stream,
    line: OwnedFd,
    deadline: Instant,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let line = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let keyboard = File::from(controller);
        let screen = Stream::of(keyboard.try_clone().unwrap());
        let terminal = Self { keyboard, screen, line, deadline: Instant::now() + LIMIT };
        terminal.resize(ROWS, COLUMNS);
        terminal
    }

    /// Starts vmette as a shell would: in a session that has this terminal.
    fn start(&self, args: &[&str]) -> Running {
        self.start_in(args, &shared_cache())
    }

    /// As [`start`](Self::start), with a cache of its own.
    pub(crate) fn start_in(&self, args: &[&str], cache: &Path) -> Running {
        self.start_program_in(VMETTE, args, cache)
    }

    /// Starts any program so.
    pub(crate) fn start_program(&self, program: &str, args: &[&str]) -> Running {
        self.start_program_in(program, args, &shared_cache())
    }

    fn start_program_in(&self, program: &str, args: &[&str], cache: &Path) -> Running {
        let end = || self.line.try_clone().unwrap();
        Vmette::from_program("setsid", [&["--ctty", program], args].concat())
            .cache(cache)
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .start()
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn shows(&mut self, text: &str) {
        self.screen.until(text, self.deadline, String::new);
    }

    /// The rows that somebody sees in the end, when the shell writes its prompt; without those below it.
    pub(crate) fn screen_before(self, prompt: &str) -> Vec<String> {
        // The other side of the last one that has it.
        drop(self.line);
        let mut emulator = vt100::Parser::new(ROWS, COLUMNS, 0);
        emulator.process(&self.screen.rest());
        emulator.process(prompt.as_bytes());
        let (below, _) = emulator.screen().cursor_position();
        emulator.screen().rows(0, COLUMNS).take(usize::from(below) + 1).collect()
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).unwrap();
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    pub(crate) fn is_raw(&self) -> bool {
        !self.settings().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits until it is raw. The system tells nobody.
    pub(crate) fn becomes_raw(&self) {
        while !self.is_raw() {
            assert!(Instant::now() < self.deadline, "the terminal does not become raw");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything in its settings that a program can change.
    pub(crate) fn state(&self) -> String {
        let settings = self.settings();
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            settings.input_modes,
            settings.output_modes,
            settings.control_modes,
            settings.local_modes,
            settings.special_codes
        )
    }
}

#[test]
fn a_shell_has_the_terminal_and_gives_it_back() {
    let mut terminal = Terminal::open();
    let before = terminal.state();
    let running = terminal.start(&["shell"]);
    terminal.shows("# ");
    assert!(terminal.is_raw());
    // What is typed is echoed: the quotes tell it from the answer.
    terminal.types("tty; stty size; echo te''rm $TERM\r");
    terminal.shows("/dev/pts/");
    terminal.shows("33 101");
    terminal.shows("term xterm");
    terminal.resize(44, 122);
    terminal.types("while [ \"$(stty size)\" != '44 122' ]; do sleep 0.1; done; echo res''ized\r");
    terminal.shows("resized");
    terminal.types("exit 9\r");
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(9), "{outcome:?}");
    assert_eq!(terminal.state(), before);
    assert!(!terminal.screen.text().contains("job control"), "{}", terminal.screen.text());
}

#[test]
fn control_c_interrupts_the_command_and_not_the_shell() {
    let mut terminal = Terminal::open();
    let running = terminal.start(&["run"]);
    terminal.shows("# ");
    terminal.types("sh -c 'echo ru\"\"ns; exec sleep 600'\r");
    terminal.shows("runs");
    terminal.types("\x03");
    terminal.shows("# ");
    terminal.types("echo st''atus $?\r");
    terminal.shows("status 130");
    terminal.shows("# ");
    terminal.types("\x04");
    assert_eq!(running.wait().code, Some(0));
}

#[test]
fn a_terminal_is_restored_after_a_signal_too() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131), (Signal::ABORT, 134)]
    {
        let mut terminal = Terminal::open();
        let before = terminal.state();
        let running = terminal.start(&["shell"]);
        terminal.shows("# ");
        assert!(terminal.is_raw());
        let machine = running.processes();
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert_eq!(terminal.state(), before);
        machine.are_gone();
    }
}

#[test]
fn control_c_reaches_a_command_that_has_no_terminal_of_its_own() {
    let mut terminal = Terminal::open();
    let script = "trap 'echo cau''ght; exit 44' INT; echo st''arted; while :; do sleep 1; done";
    let running = terminal.start(&["run", "--", "sh", "-c", script]);
    terminal.shows("started");
    assert!(!terminal.is_raw());
    terminal.types("\x03");
    terminal.shows("caught");
    assert_eq!(running.wait().code, Some(44));
}

#[test]
fn a_command_gets_a_terminal_on_request() {
    let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal";
    Vmette::run(["-t", "--", "sh", "-c", script]).exits(0).printed("terminal\r\n");
    Vmette::script("test -t 0 || test -t 1 || test -t 2 || echo none").exits(0).printed("none\n");
}

//! The signal that asks an image's command to end, as images write it.

use vmette_image::ImageConfig;

/// What a command gets that says nothing else.
const DEFAULT: i32 = libc::SIGTERM;

/// Real-time signals as programs of a Linux guest count them: the two below are the C library's own.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Linux's numbers on the architectures that guests have, which are those of the wire, wherever vmette itself runs.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("CLD", 17),
];

/// `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`. `None`: there is no such signal.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (1..=RTMAX).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i32>().ok(),
        None if text.is_empty() => Some(0),
        _ => None,
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+')?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The Linux number of the signal that asks a command of this image to end: the image's, else `SIGTERM`.
pub(crate) fn of(image: &ImageConfig) -> i32 {
    image.stop_signal.as_deref().and_then(parse).unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, number) in [
            ("SIGQUIT", 3),
            ("quit", 3),
            ("3", 3),
            ("sigterm", 15),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in
            ["", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN-1", "RTMIN+31", "RTMAX-31", "SIGSIGTERM", "RTMIN+"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_table_is_this_systems() {
        for (name, number) in [("USR1", libc::SIGUSR1), ("CHLD", libc::SIGCHLD), ("SYS", libc::SIGSYS)] {
            if cfg!(target_os = "linux") {
                assert_eq!(parse(name), Some(number));
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_understood_is_a_signal(text in "(SIG|sig)?[A-Z0-9+-]{0,12}") {
            prop_assert!(parse(&text).is_none_or(|number| (1..=64).contains(&number)));
        }
    }
}

//! A number or a time, as the documentation writes it and as a constant has it.

use std::fmt;

/// A limit with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Quantity {
    /// Bytes, or a count of anything.
    Number(u128),
    /// In milliseconds.
    Time(u128),
}

/// The binary units, each 1024 of the one before.
const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// Milliseconds of each unit of time.
const TIMES: [(&str, u128); 4] = [("ms", 1), ("s", 1000), ("minutes", 60_000), ("hours", 3_600_000)];

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(ms) if ms % 1000 == 0 => write!(f, "{} s", ms / 1000),
            Self::Time(ms) => write!(f, "{ms} ms"),
            Self::Number(number) => {
                let fits = |power: &u32| number % 1024_u128.pow(*power) == 0;
                match (1..=4).rev().find(fits) {
                    Some(power) if *number > 0 => {
                        write!(f, "{} {}", number / 1024_u128.pow(power), UNITS[power as usize - 1])
                    }
                    _ => write!(f, "{number}"),
                }
            }
        }
    }
}

/// Every quantity of a text, in its order: `64 KiB`, `1,000,000`, `0.5 s`, `30 s`.
pub(super) fn all_in(text: &str) -> Vec<Quantity> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let in_word = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
        let (thousandths, length) = number(&rest[at..]);
        rest = &rest[at + length..];
        let unit: &str =
            rest.strip_prefix(' ').unwrap_or("").split(|c: char| !c.is_alphabetic()).next().unwrap_or("");
        let quantity =
            match (UNITS.iter().position(|name| *name == unit), TIMES.iter().find(|(name, _)| *name == unit))
            {
                (Some(power), _) => Quantity::Number((thousandths << (10 * (power + 1))) / 1000),
                (_, Some((_, factor))) => Quantity::Time(thousandths * factor / 1000),
                _ => Quantity::Number(thousandths / 1000),
            };
        if !in_word {
            found.push(quantity);
        }
    }
    found
}

/// A number of thousandths at the start of a text, and how long it is there. A comma belongs to it only between groups of
/// three digits, a point only before a digit.
fn number(text: &str) -> (u128, usize) {
    let bytes = text.as_bytes();
    let digits_at = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits_at(0);
    let mut digits = text[..length].to_owned();
    while bytes.get(length) == Some(&b',') && digits_at(length + 1) == 3 {
        digits.push_str(&text[length + 1..length + 4]);
        length += 4;
    }
    let fraction = if bytes.get(length) == Some(&b'.') { digits_at(length + 1) } else { 0 };
    let mut thousandths = digits.parse::<u128>().unwrap_or(u128::MAX >> 64) * 1000;
    if fraction > 0 {
        let text = format!("{:0<3.3}", &text[length + 1..=length + fraction]);
        thousandths += text.parse::<u128>().unwrap_or(0);
        length += 1 + fraction;
    }
    (thousandths, length)
}

#[cfg(test)]
mod tests {
    use super::Quantity::{Number, Time};
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        let text = "1,000,000, 4095, 255 bytes; 64 KiB in 0.5 s or 60 minutes; 8 TiB of 512";
        let expected = [
            Number(1_000_000),
            Number(4095),
            Number(255),
            Number(64 << 10),
            Time(500),
            Time(3_600_000),
            Number(8 << 40),
            Number(512),
        ];
        assert_eq!(all_in(text), expected);
    }

    #[test]
    fn digits_of_a_word_are_no_quantity() {
        assert_eq!(all_in("x86 sha256 UTF-8 _7 end."), []);
        assert_eq!(all_in("3."), [Number(3)]);
    }

    #[test]
    fn they_are_shown_as_a_document_writes_them() {
        let shown: Vec<String> = [Number(96 << 20), Number(2048 + 1), Number(0), Time(30_000), Time(500)]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["96 MiB", "2049", "0", "30 s", "500 ms"]);
    }
}

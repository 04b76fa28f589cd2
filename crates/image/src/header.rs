//! A header of a tar archive: its fields, and the numbers in them, as Go's `archive/tar` reads them.

/// Length of a block, of which an archive consists.
pub(crate) const BLOCK: usize = 512;

/// A block of an archive.
pub(crate) type Block = [u8; BLOCK];

type Range = std::ops::Range<usize>;

const NAME: Range = 0..100;
const MODE: Range = 100..108;
const UID: Range = 108..116;
const GID: Range = 116..124;
const SIZE: Range = 124..136;
const MTIME: Range = 136..148;
const CHECKSUM: Range = 148..156;
const KIND: usize = 156;
const LINK: Range = 157..257;
const MAGIC: Range = 257..265;
const MAJOR: Range = 329..337;
const MINOR: Range = 337..345;
/// The directory of a name that is too long for its own field.
const PREFIX: Range = 345..500;
/// The same in star's dialect, where two times follow.
const STAR_PREFIX: Range = 345..476;
/// The mark of star's dialect.
const STAR_MARK: Range = 508..512;
/// Two times of GNU's dialect, which has no prefix.
const GNU_TIMES: [Range; 2] = [345..357, 357..369];
/// The first pieces of a sparse file in GNU's dialect, whether more follow in blocks of their own, and its full size.
const SPARSE: Range = 386..482;
const SPARSE_MORE: usize = 482;
const SPARSE_SIZE: Range = 483..495;
/// The same in a block of pieces.
const PIECES: Range = 0..504;
const PIECES_MORE: usize = 504;
/// Length of a piece: its offset, and as long again its length.
const PIECE: usize = 24;

/// Dialects that differ in the fields after the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// The oldest: such fields are not there.
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    block: &'a Block,
    dialect: Dialect,
}

impl<'a> Header<'a> {
    /// `None` if the checksum is wrong: the block is no header.
    pub(crate) fn of(block: &'a Block) -> Option<Self> {
        if !checksum_fits(block) {
            return None;
        }
        let dialect = match &block[MAGIC] {
            b"ustar  \0" => Dialect::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if &block[STAR_MARK] == b"tar\0" => Dialect::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
            _ => Dialect::V7,
        };
        Some(Self { block, dialect })
    }

    /// The entry's type, a letter or a digit.
    pub(crate) fn kind(&self) -> u8 {
        self.block[KIND]
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[NAME]);
        match self.prefix() {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn prefix(&self) -> &'a [u8] {
        match self.dialect {
            Dialect::V7 => b"",
            Dialect::Ustar => text(&self.block[PREFIX]),
            Dialect::Star => text(&self.block[STAR_PREFIX]),
            // Before 2016 Go wrote a prefix where this dialect has times, and images of then are still there.
            Dialect::Gnu => {
                let prefix = text(&self.block[PREFIX]);
                let is_time =
                    |range: Range| self.block[range.start] == 0 || number(&self.block[range]).is_some();
                if GNU_TIMES.into_iter().all(is_time) || !prefix.is_ascii() { b"" } else { prefix }
            }
        }
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.block[LINK])
    }

    /// `None`, as of the other numbers, if it is malformed.
    pub(crate) fn mode(&self) -> Option<i64> {
        number(&self.block[MODE])
    }

    pub(crate) fn uid(&self) -> Option<i64> {
        number(&self.block[UID])
    }

    pub(crate) fn gid(&self) -> Option<i64> {
        number(&self.block[GID])
    }

    pub(crate) fn size(&self) -> Option<u64> {
        number(&self.block[SIZE]).and_then(|size| size.try_into().ok())
    }

    /// Seconds since 1970.
    pub(crate) fn mtime(&self) -> Option<i64> {
        number(&self.block[MTIME])
    }

    /// The major and the minor number of a device.
    pub(crate) fn device(&self) -> Option<(i64, i64)> {
        match self.dialect {
            Dialect::V7 => Some((0, 0)),
            _ => Some((number(&self.block[MAJOR])?, number(&self.block[MINOR])?)),
        }
    }

    /// The full size of a sparse file in GNU's dialect, its first pieces, and whether more follow.
    pub(crate) fn sparse(&self) -> Option<(u64, Pieces<'a>, bool)> {
        let size = number(&self.block[SPARSE_SIZE]).and_then(|size| size.try_into().ok())?;
        let pieces = Pieces(&self.block[SPARSE]);
        (self.dialect == Dialect::Gnu).then_some((size, pieces, self.block[SPARSE_MORE] != 0))
    }
}

/// The pieces of a sparse file in a block of their own, and whether more follow.
pub(crate) fn more_pieces(block: &Block) -> (Pieces<'_>, bool) {
    (Pieces(&block[PIECES]), block[PIECES_MORE] != 0)
}

/// Offsets and lengths. A piece that is `None` has malformed numbers.
pub(crate) struct Pieces<'a>(&'a [u8]);

impl Iterator for Pieces<'_> {
    type Item = Option<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (piece, rest) = self.0.split_at_checked(PIECE)?;
        self.0 = rest;
        // A list that does not fill its place ends so.
        if piece[0] == 0 {
            return None;
        }
        let field = |range| number(&piece[range]).and_then(|number: i64| u64::try_from(number).ok());
        Some(field(0..PIECE / 2).zip(field(PIECE / 2..PIECE)))
    }
}

/// A text up to its NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, between blanks and NULs; a field without any is 0. Numbers that do not fit are in base 256,
/// as two's complement after a bit that says so.
fn number(field: &[u8]) -> Option<i64> {
    const BINARY: u8 = 0x80;
    const NEGATIVE: u8 = 0x40;
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let first = *field.first()?;
    if first & BINARY != 0 {
        let sign: u8 = if first & NEGATIVE != 0 { 0xff } else { 0 };
        let mut value: u64 = 0;
        for (at, byte) in field.iter().enumerate() {
            let digit = (byte ^ sign) & if at == 0 { !BINARY } else { 0xff };
            if value >> 56 != 0 {
                return None;
            }
            value = value << 8 | u64::from(digit);
        }
        let value = i64::try_from(value).ok()?;
        return Some(if sign == 0 { value } else { !value });
    }
    let Some(start) = field.iter().position(|byte| !is_padding(byte)) else { return Some(0) };
    let digits = text(&field[start..]).trim_ascii_end();
    let value = digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    });
    value.and_then(|value| value.try_into().ok())
}

/// The sum of all bytes, with the checksum's own field taken as blanks; historic writers summed signed bytes.
fn checksum_fits(block: &Block) -> bool {
    let bytes =
        || block.iter().enumerate().map(|(at, &byte)| if CHECKSUM.contains(&at) { b' ' } else { byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    number(&block[CHECKSUM]).is_some_and(|sum| sum == unsigned || sum == signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644    \0", Some(0o644)),
            (b"\0\x00644\0\0\0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"      \0 ", Some(0)),
            (b"", None),
            (b"644 7   ", None),
            (b"rwxr-xr-", None),
            (b"0000008\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x05", Some(5)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\xff\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), expected, "{:?}", String::from_utf8_lossy(field));
        }
    }

    fn block(fields: &[(Range, &[u8])]) -> Block {
        let mut block = [0; BLOCK];
        for (range, value) in fields {
            block[range.start..range.start + value.len()].copy_from_slice(value);
        }
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn prefixes_depend_on_the_dialect() {
        let name = |magic: &[u8], more: &[(Range, &[u8])]| {
            let fields = [&[(NAME, &b"name"[..]), (MAGIC, magic)], more].concat();
            String::from_utf8(Header::of(&block(&fields)).unwrap().name()).unwrap()
        };
        let prefix: &[(Range, &[u8])] = &[(PREFIX, b"dir")];
        assert_eq!(name(b"", prefix), "name");
        assert_eq!(name(b"ustar\x0000", prefix), "dir/name");
        assert_eq!(name(b"ustar  \0", prefix), "dir/name", "as Go wrote it");
        assert_eq!(name(b"ustar  \0", &[(PREFIX, b"14712345670\0")]), "name", "a time");
        let long = [b'd'; 131];
        let star: &[(Range, &[u8])] =
            &[(STAR_PREFIX, &long), (476..488, b"14712345670\0"), (STAR_MARK, b"tar\0")];
        assert_eq!(name(b"ustar\x0000", star), "d".repeat(131) + "/name");
    }

    #[test]
    fn a_wrong_checksum_is_no_header() {
        let mut right = block(&[(NAME, b"name")]);
        assert!(Header::of(&right).is_some());
        right[0] ^= 1;
        assert!(Header::of(&right).is_none());
        assert!(Header::of(&[0; BLOCK]).is_none());
    }
}

//! Making new inputs from old ones.

use fastrand::Rng;

/// Longest input.
const INPUT_MAX: usize = 32 << 10;
const BLOCK: usize = 512;

/// The shapes of inputs, so that most changes get past the first check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Json,
    /// Blocks, of which those that look like headers get their checksum.
    Tar,
}

/// Where a header's fields are.
const FIELDS: [(usize, usize); 17] = [
    (0, 100),
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (157, 100),
    (257, 8),
    (329, 8),
    (337, 8),
    (345, 155),
    // GNU's sparse files: offset, length, size.
    (386, 12),
    (398, 12),
    (483, 12),
];
const CHECKSUM: std::ops::Range<usize> = 148..156;

const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "7",
    "8",
    "511",
    "512",
    "513",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "00000000000000000000000000000000000000001",
];

const TEXTS: [&str; 40] = [
    "/",
    "//",
    "..",
    "../",
    "/..",
    ".",
    ":",
    "@",
    "#",
    "?",
    "%",
    "%00",
    "%2e%2e",
    "[::1]",
    "localhost",
    "@sha256:",
    "docker.io/",
    ":latest",
    "http://",
    "https://",
    "tar+file://",
    "squashfs+https://",
    "oci-layout:",
    "oci://",
    "#sha256=",
    "\0",
    "\u{1b}",
    "\u{80}",
    "\u{202e}",
    "e\u{301}",
    "\\",
    "\"",
    ".wh.",
    ".wh..wh..opq",
    "path=",
    " ",
    "\n",
    "=",
    "user:secret@",
    "a",
];

const JSON: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    "null",
    "true",
    "{}",
    "[]",
    "[[[[[[[[",
    "\"\"",
    "\"/\"",
    "\"..\"",
    "\"\\u0000\"",
    "\"schemaVersion\":1,",
    "\"schemaVersion\":2,",
    "\"manifests\":[],",
    "\"layers\":[],",
    "\"config\":{},",
    "\"mediaType\":\"x\",",
    "\"size\":-1,",
    "\"digest\":\"sha256:\",",
    "\"urls\":[\"http://h/\"],",
    "1e400",
    "\\u0000",
    "\\u001b",
    "\\ud800",
    "/../",
    "\\n",
    "=",
];

/// One input more: some changes to one of the corpus, or to one of the good ones that it began with.
pub(super) fn mutate(corpus: &[Vec<u8>], good: usize, shape: Shape, random: &mut Rng) -> Vec<u8> {
    let from = if random.bool() { &corpus[..good] } else { corpus };
    let mut input = pick::<Vec<u8>>(from, random).clone();
    for _ in 0..1 + random.usize(..3) {
        match (shape, random.u8(..10)) {
            (Shape::Tar, 0..2) => blocks(&mut input, corpus, random),
            (Shape::Tar, 2..5) => field(&mut input, random),
            (Shape::Tar, 5) => records(&mut input, random),
            (Shape::Tar, 6..8) => overwrite(&mut input, random),
            (Shape::Json, 0..3) => insert(&mut input, pick(&JSON, random).as_bytes(), random),
            (Shape::Text | Shape::Json, 0..4) => insert(&mut input, pick(&TEXTS, random).as_bytes(), random),
            (_, 4) => number(&mut input, random),
            (_, 5) => splice(&mut input, pick::<Vec<u8>>(corpus, random), random),
            _ => bytes(&mut input, random),
        }
        input.truncate(INPUT_MAX);
    }
    // Now and then a wrong checksum is what there is to be looked at.
    if shape == Shape::Tar && random.u8(..16) > 0 {
        input.chunks_exact_mut(BLOCK).filter(|block| block.get(257..262) == Some(b"ustar")).for_each(sum);
    }
    input
}

fn pick<'a, T>(from: &'a [T], random: &mut Rng) -> &'a T {
    &from[random.usize(..from.len())]
}

/// A place in it, which may be its end.
fn place(input: &[u8], random: &mut Rng) -> usize {
    random.usize(..=input.len())
}

/// A range of it: short, mostly.
fn range(input: &[u8], random: &mut Rng) -> std::ops::Range<usize> {
    let start = place(input, random);
    let len = if random.bool() { random.usize(..9) } else { random.usize(..=input.len()) };
    start..(start + len).min(input.len())
}

fn insert(input: &mut Vec<u8>, what: &[u8], random: &mut Rng) {
    let at = place(input, random);
    let end = if random.bool() { at } else { (at + what.len()).min(input.len()) };
    input.splice(at..end, what.iter().copied());
}

/// Over one that is there, if there is any.
fn number(input: &mut Vec<u8>, random: &mut Rng) {
    let digits: Vec<_> = (0..input.len()).filter(|&at| input[at].is_ascii_digit()).collect();
    let number = pick(&NUMBERS, random).as_bytes();
    if digits.is_empty() {
        return insert(input, number, random);
    }
    let start = *pick(&digits, random);
    let end = (start..input.len()).find(|&at| !input[at].is_ascii_digit()).unwrap_or(input.len());
    input.splice(start..end, number.iter().copied());
}

fn splice(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    let (here, there) = (range(input, random), range(other, random));
    input.splice(here, other[there].iter().copied());
}

fn bytes(input: &mut Vec<u8>, random: &mut Rng) {
    let range = range(input, random);
    match random.u8(..5) {
        0 => drop(input.drain(range)),
        1 => {
            let copied = input[range].to_vec();
            insert(input, &copied, random);
        }
        2 => input.truncate(range.start),
        _ if input.is_empty() => input.push(random.u8(..)),
        3 => {
            let at = random.usize(..input.len());
            input[at] ^= 1 << random.u8(..8);
        }
        _ => {
            let at = random.usize(..input.len());
            input[at] = random.u8(..);
        }
    }
}

/// Whole blocks come, go, or change places.
fn blocks(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Rng) {
    let other = pick(corpus, random);
    let all = |bytes: &[u8]| bytes.len() / BLOCK;
    let count = random.usize(..4);
    let at = random.usize(..=all(input)) * BLOCK;
    match random.u8(..3) {
        0 => drop(input.drain(at..(at + count * BLOCK).min(input.len()))),
        1 => drop(input.splice(at..at, std::iter::repeat_n(0, count * BLOCK))),
        _ => {
            let from = random.usize(..=all(other)) * BLOCK;
            let to = (from + (count + 1) * BLOCK).min(other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
    }
}

/// A field of a header becomes something that such a field may hold.
fn field(input: &mut [u8], random: &mut Rng) {
    let headers: Vec<_> = (0..input.len() / BLOCK)
        .map(|n| n * BLOCK)
        .filter(|at| &input[at + 257..at + 262] == b"ustar")
        .collect();
    if headers.is_empty() {
        return;
    }
    let (offset, len) = *pick(&FIELDS, random);
    let start = pick(&headers, random) + offset;
    let field = &mut input[start..start + len];
    let value = match (offset, random.u8(..8)) {
        (_, 0) => pick(&NUMBERS, random).as_bytes().to_vec(),
        (_, 1) => vec![0x80 | random.u8(..2), random.u8(..)],
        (156, _) => vec![*pick(b"0000111122223455567xLKSg\0D\xff", random)],
        (0 | 157 | 345, 2) => vec![b'a'; random.usize(..=len)],
        (0 | 157 | 345, _) => text(random),
        // Small ones are let through.
        _ => format!("{:o}", random.u64(..) >> random.u8(24..64)).into_bytes(),
    };
    field.fill(0);
    let len = len.min(value.len());
    field[..len].copy_from_slice(&value[..len]);
}

/// Several texts in a row: mostly a path that means to be another.
fn text(random: &mut Rng) -> Vec<u8> {
    const PATH: [&str; 8] = ["a", "d/f", "s", "a/b", "/", "/..", "/../", ".wh."];
    let part = |random: &mut Rng| match random.u8(..4) {
        0 => *pick(&TEXTS, random),
        _ => *pick(&PATH, random),
    };
    (0..1 + random.usize(..4)).flat_map(|_| part(random).bytes()).collect()
}

/// Digits and lines of what is no header, in place: numbers there are text.
fn overwrite(input: &mut [u8], random: &mut Rng) {
    let digits: Vec<_> =
        (0..input.len()).filter(|&at| input[at].is_ascii_digit() || input[at] == b'\n').collect();
    if digits.is_empty() {
        return;
    }
    for _ in 0..1 + random.usize(..3) {
        input[*pick(&digits, random)] = *pick(b"0123456789\n\n", random);
    }
}

/// An extended header whose lengths are right, before an entry.
fn records(input: &mut Vec<u8>, random: &mut Rng) {
    const KEYS: [&str; 14] = [
        "path",
        "linkpath",
        "size",
        "mtime",
        "uid",
        "gid",
        "comment",
        "GNU.sparse.major",
        "GNU.sparse.minor",
        "GNU.sparse.realsize",
        "GNU.sparse.name",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.security.capability",
        "LIBARCHIVE.xattr.a",
    ];
    let mut content = Vec::new();
    for _ in 0..1 + random.usize(..3) {
        let value = match random.u8(..4) {
            0 => Vec::new(),
            1 => pick(&NUMBERS, random).as_bytes().to_vec(),
            _ => text(random),
        };
        let key = *pick(&KEYS, random);
        let rest = key.len() + value.len() + 3;
        let Some(len) = (rest + 1..rest + 9).find(|len| len - rest == len.to_string().len()) else {
            continue;
        };
        content.extend_from_slice(format!("{len} {key}=").as_bytes());
        content.extend_from_slice(&value);
        content.push(b'\n');
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::new(*pick(b"xxxxg", random)));
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut blocks = header.as_bytes().to_vec();
    blocks.extend_from_slice(&content);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    let at = random.usize(..=input.len() / BLOCK) * BLOCK;
    input.splice(at..at, blocks);
}

fn sum(header: &mut [u8]) {
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

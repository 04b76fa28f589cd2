//! The values of the workspace's constants, as far as they are plain arithmetic.

use std::collections::HashMap;

use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Item, Lit};

use super::quantity::Quantity;
use crate::attributes;
use crate::sources::Source;

/// How many constants may be made of each other; more are a name that was taken for another.
const DEPTH_MAX: usize = 8;

/// Constants by name: several modules may have one of the same name.
pub(super) struct Constants<'a> {
    defined: HashMap<String, Vec<Definition<'a>>>,
}

struct Definition<'a> {
    file: &'a str,
    value: Expr,
}

impl<'a> Constants<'a> {
    /// Those of the code that ships. A file that cannot be parsed has none: the compiler refuses it.
    pub(super) fn of(files: &'a [Source]) -> Self {
        let mut defined: HashMap<String, Vec<Definition<'a>>> = HashMap::new();
        for file in files.iter().filter(|file| file.ships()) {
            let Ok(parsed) = syn::parse_file(&file.text) else { continue };
            let mut collector = Collector { file: &file.path, defined: &mut defined };
            collector.visit_file(&parsed);
        }
        Self { defined }
    }

    /// The values of all constants of that name.
    pub(super) fn values(&self, name: &str) -> Vec<Quantity> {
        let definitions = self.defined.get(name).map_or(&[][..], Vec::as_slice);
        definitions.iter().filter_map(|definition| self.quantity(name, definition)).collect()
    }

    /// The name says what a bare number counts: `_MIB` and `_MS` are units, `_LOG` is a power of two.
    fn quantity(&self, name: &str, definition: &Definition<'_>) -> Option<Quantity> {
        let says = |word: &str| name.split('_').any(|part| part == word);
        match self.evaluate(&definition.value, definition.file, 0)? {
            Quantity::Number(number) if says("MIB") => Some(Quantity::Number(number << 20)),
            Quantity::Number(number) if says("MS") => Some(Quantity::Time(number)),
            Quantity::Number(number) if says("LOG") => {
                Some(Quantity::Number(1_u128.checked_shl(u32::try_from(number).ok()?)?))
            }
            quantity => Some(quantity),
        }
    }

    fn evaluate(&self, value: &Expr, file: &str, depth: usize) -> Option<Quantity> {
        let number = |value: &Expr| match self.evaluate(value, file, depth)? {
            Quantity::Number(number) => Some(number),
            Quantity::Time(_) => None,
        };
        match value {
            Expr::Paren(inner) => self.evaluate(&inner.expr, file, depth),
            Expr::Group(inner) => self.evaluate(&inner.expr, file, depth),
            Expr::Cast(cast) => self.evaluate(&cast.expr, file, depth),
            // The limit of a table in rising order is its last entry.
            Expr::Array(array) => self.evaluate(array.elems.last()?, file, depth),
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(int) => int.base10_parse().ok().map(Quantity::Number),
                // Text for a file of the kernel's.
                Lit::ByteStr(text) => {
                    std::str::from_utf8(&text.value()).ok()?.parse().ok().map(Quantity::Number)
                }
                _ => None,
            },
            Expr::Binary(binary) => {
                let (left, right) = (number(&binary.left)?, number(&binary.right)?);
                let result = match binary.op {
                    BinOp::Add(_) => left.checked_add(right),
                    BinOp::Sub(_) => left.checked_sub(right),
                    BinOp::Mul(_) => left.checked_mul(right),
                    BinOp::Shl(_) => left.checked_mul(1_u128.checked_shl(u32::try_from(right).ok()?)?),
                    _ => None,
                };
                result.map(Quantity::Number)
            }
            Expr::Call(call) => {
                let Expr::Path(function) = &*call.func else { return None };
                let factor = match function.path.segments.last()?.ident.to_string().as_str() {
                    "from_millis" => 1,
                    "from_secs" => 1000,
                    "from_mins" => 60_000,
                    "from_hours" => 3_600_000,
                    _ => return None,
                };
                Some(Quantity::Time(number(call.args.first()?)?.checked_mul(factor)?))
            }
            Expr::Path(path) if depth < DEPTH_MAX => {
                let definitions = self.defined.get(&path.path.segments.last()?.ident.to_string())?;
                // A bare name is the file's own; one with a module before it is another file's.
                let bare = path.path.segments.len() == 1;
                let near = definitions.iter().find(|definition| (definition.file == file) == bare);
                let definition = near.or_else(|| definitions.first())?;
                self.evaluate(&definition.value, definition.file, depth + 1)
            }
            _ => None,
        }
    }
}

struct Collector<'a, 'b> {
    file: &'a str,
    defined: &'b mut HashMap<String, Vec<Definition<'a>>>,
}

impl Collector<'_, '_> {
    fn add(&mut self, name: &syn::Ident, value: &Expr) {
        let definition = Definition { file: self.file, value: value.clone() };
        self.defined.entry(name.to_string()).or_default().push(definition);
    }
}

impl<'ast> Visit<'ast> for Collector<'_, '_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes::of(item).iter().any(attributes::is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.add(&item.ident, &item.expr);
        visit::visit_item_const(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.add(&item.ident, &item.expr);
        visit::visit_impl_item_const(self, item);
    }
}

//! Fuzzing of everything that reads what a stranger wrote: specs, URLs, archives, and the documents of images.
//!
//! A target is a function of bytes that must not panic and asserts what the rest of the crate relies on. It says what
//! came of its input, and inputs that come to something new are kept and changed further. In the suite each target has
//! a bounded, repeatable run; a longer one, which is different each time, is
//!
//! ```sh
//! VMETTE_TEST_FUZZ_SECONDS=600 cargo test -p vmette-image --lib fuzz:: -- --nocapture
//! ```
//!
//! A finding is printed with its input, as Rust writes bytes: it becomes one of the target's seeds with its fix.

mod mutate;
mod run;

use run::Target;

use crate::layers::tests::target as layers;
use crate::providers::oci_tests::targets as oci;
use mutate::Shape;
use vmette_http::testing::{url_seeds, url_target};

macro_rules! targets {
    ($($name:ident: $runs:literal, $shape:ident, $function:path, $seeds:expr;)*) => { $(
        #[test]
        fn $name() {
            let (name, shape) = (stringify!($name), Shape::$shape);
            Target { name, runs: $runs, shape, function: $function, seeds: $seeds }.run();
        }
    )* };
}

// The numbers of runs come to about a second each, without optimization.
targets! {
    specs: 20_000, Text, oci::spec, oci::spec_seeds();
    urls: 40_000, Text, url_target, url_seeds();
    manifests: 8_000, Json, oci::manifest, oci::manifest_seeds();
    configurations: 12_000, Json, oci::configuration, oci::configuration_seeds();
    layouts: 10_000, Tar, oci::layout, oci::layout_seeds();
    saved_images: 8_000, Tar, oci::saved, oci::saved_seeds();
    archives: 2_000, Tar, layers::archive, layers::seeds();
    layers: 2_000, Tar, layers::layer, layers::seeds();
    compressed_layers: 1_000, Text, layers::layer, layers::compressed_seeds();
}

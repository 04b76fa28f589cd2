//! Downloads: GET requests with everything that a hostile or broken server may do bounded.

mod error;

pub use error::NetworkError;

#![deny(unsafe_code)]
#![warn(missing_docs)]
#![doc = "Skeleton: see the modules."]
pub mod error;
pub mod plan;

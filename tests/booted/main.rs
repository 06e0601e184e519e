//! The whole of it: an image from the actual Packer template with the actual package, instances that
//! boot from it, the actual UserData, the actual unit.

mod cluster;
mod formed;
mod machine;

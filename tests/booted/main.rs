//! The whole path: an image from the actual Packer template with the actual package, instances that boot from it, the
//! actual UserData, the actual unit.

mod bad_input;
mod cluster;
mod engine;
mod formed;
mod groups;
mod leaving;
mod machine;
mod member;
mod neighbours;
mod network;
mod upgrade;
mod user_data;
mod warm_pool;

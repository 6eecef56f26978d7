//! Post-training methods: on layers with the flaw that each is made for, and on whole models.

mod common;
#[path = "ptq/layers.rs"]
mod layers;
#[path = "ptq/models.rs"]
mod models;

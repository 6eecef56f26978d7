//! Which form of a product runs: a default per kind of adapter, or the fastest by measurement.
//!
//! Large products on a GPU are measured once per adapter, driver, kernel text and class of shape,
//! over the forms that the adapter has; a form may only win with the integers that the portable
//! form gives, and the winner is kept on disk. Small products take the default, so that a small
//! model starts at once, and so do software adapters, whose best form is known. All forms give the
//! same integers: what is chosen changes the time, not the result.
//!
//! `QVGEN_TUNING=off` switches measuring off, `QVGEN_TUNING=all` measures software adapters, too.

mod measure;
mod store;

use super::adapter_facts::AdapterFacts;
use super::qmatmul::Params;
use super::qmatmul_form::{Form, Product, sources_hash};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::tensor::CubeTensor;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use store::Store;

/// Products with fewer multiplications take the default form: none of them takes long.
const LEAST_TUNED: u64 = 1 << 30;

/// Which adapters are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    /// None: every product takes the default form.
    Off,
    /// GPUs.
    Gpus,
    /// All, software ones included.
    All,
}

impl Tuning {
    /// What `QVGEN_TUNING` says; GPUs if it says nothing.
    fn from_environment() -> Self {
        match std::env::var("QVGEN_TUNING").as_deref() {
            Ok("off") => Self::Off,
            Ok("all") => Self::All,
            Ok("") | Err(_) => Self::Gpus,
            Ok(other) => {
                log::warn!("QVGEN_TUNING={other} is unknown (off, all): only GPUs are measured");
                Self::Gpus
            }
        }
    }

    fn includes(self, facts: &AdapterFacts, ops: u64) -> bool {
        // Nothing is known of a device that was not opened by this crate, not even its name.
        let is_known = !facts.identity.is_empty();
        let may = match self {
            Self::Off => false,
            Self::Gpus => !facts.is_software,
            Self::All => true,
        };
        may && is_known && ops >= LEAST_TUNED
    }
}

/// Shapes and widths that share a measurement: tokens count by powers of two.
fn class(product: Product, params: Params) -> String {
    let Product { w_bits, x_bits, grouped, .. } = product;
    let grouping = if grouped { format!("g{}", params.group_size) } else { String::new() };
    let tokens = params.m.next_power_of_two().min(measure::MOST_TOKENS);
    format!("w{w_bits}{grouping} x{x_bits} {tokens}×{}×{}", params.n, params.k)
}

/// Choices so far, by adapter and class.
struct Choices {
    tuning: Tuning,
    chosen: HashMap<(String, String), Form>,
}

static CHOICES: LazyLock<Mutex<Choices>> = LazyLock::new(|| {
    Mutex::new(Choices { tuning: Tuning::from_environment(), chosen: HashMap::new() })
});

/// The form for a product on the device of `tensor`.
pub(crate) fn form_of(tensor: &CubeTensor, product: Product, params: Params) -> Form {
    let facts = AdapterFacts::of_cube(&tensor.device);
    let ops = u64::from(params.m) * u64::from(params.n) * u64::from(params.k);
    // Held while measuring: another thread's product would disturb it.
    let mut choices = CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    if !choices.tuning.includes(&facts, ops) {
        return Form::preferred(&facts, product, params);
    }
    let class = class(product, params);
    let key = (facts.identity.clone(), class.clone());
    if let Some(&form) = choices.chosen.get(&key) {
        return form;
    }
    let candidates = Form::candidates(&facts, product);
    let store = Store::of_user(&facts.identity, &sources_hash());
    let form = stored(store.as_ref(), &class, &candidates)
        .unwrap_or_else(|| fastest(&tensor.client, &candidates, product, params, &class, store));
    choices.chosen.insert(key, form);
    form
}

/// The form that [`form_of`] chose for such a product on `device`, without measuring: the default
/// one before it was asked.
pub(crate) fn known_form(device: &CubeDevice, product: Product, params: Params) -> Form {
    let facts = AdapterFacts::of_cube(device);
    let choices = CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (facts.identity.clone(), class(product, params));
    let chosen = choices.chosen.get(&key).copied();
    chosen.unwrap_or_else(|| Form::preferred(&facts, product, params))
}

/// The choice on disk, if the adapter still has it.
fn stored(store: Option<&Store>, class: &str, candidates: &[Form]) -> Option<Form> {
    let name = store?.read().remove(class)?;
    candidates.iter().copied().find(|form| form.to_string() == name)
}

/// Measures and keeps what was found.
fn fastest(
    client: &Client,
    candidates: &[Form],
    product: Product,
    params: Params,
    class: &str,
    store: Option<Store>,
) -> Form {
    let measured = measure::candidates(client, candidates, product, params);
    let Some(best) = measured.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)) else {
        return candidates[0];
    };
    log::info!("{class}: {} is the fastest form, {:.3} ms", best.form, best.seconds * 1e3);
    if let Some(Err(err)) = store.map(|store| store.insert(class, &best.form.to_string())) {
        log::warn!("the choice of a kernel was not kept: {err}");
    }
    best.form
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Bits;

    fn facts(is_software: bool) -> AdapterFacts {
        AdapterFacts { identity: "X".to_owned(), is_software, ..AdapterFacts::default() }
    }

    #[test]
    fn only_large_products_of_known_gpus_are_measured() {
        assert!(Tuning::Gpus.includes(&facts(false), LEAST_TUNED));
        assert!(!Tuning::Gpus.includes(&facts(false), LEAST_TUNED - 1));
        assert!(!Tuning::Gpus.includes(&facts(true), LEAST_TUNED));
        assert!(Tuning::All.includes(&facts(true), LEAST_TUNED));
        assert!(!Tuning::Off.includes(&facts(false), LEAST_TUNED));
        assert!(!Tuning::Gpus.includes(&AdapterFacts::default(), LEAST_TUNED));
    }

    #[test]
    fn a_class_counts_tokens_by_powers_of_two() {
        let of = |m| {
            let params = Params { m, n: 1536, k: 8960, group_size: 8960 };
            class(Product::plain(Bits::B8, Bits::B4), params)
        };
        assert_eq!(of(257), "w4 x8 512×1536×8960");
        assert_eq!(of(512), of(300));
        assert_eq!(of(1 << 20), of(1 << 15));
    }
}

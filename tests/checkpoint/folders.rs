//! Models in the diffusers layout, whole and with something wrong.

use crate::{copy_folder, full_message, temporary, wan};
use qvgen::nn::WeightSource;
use qvgen::pipeline::checkpoint::{Checkpoint, CheckpointError, ComponentKind, ModelFolder};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[derive(serde::Deserialize)]
struct Layers {
    num_layers: usize,
}

fn message<T>(result: Result<T, CheckpointError>) -> String {
    full_message(&result.map(drop).expect_err("an error"))
}

/// Changes the `model_index.json` of the copy in `folder`.
fn edit_index(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("model_index.json");
    let mut index: Value =
        serde_json::from_slice(&fs::read(wan().join("model_index.json")).expect("the fixture"))
            .expect("valid JSON");
    edit(&mut index);
    fs::write(path, index.to_string()).expect("written");
}

fn weights(folder: &Path, kind: ComponentKind) -> Result<Checkpoint, CheckpointError> {
    ModelFolder::open(folder)?.component(kind)?.weights()
}

#[test]
fn the_fixture_has_every_component_with_configuration_and_weights() {
    let model = ModelFolder::open(&wan()).unwrap();
    assert_eq!((model.class_name(), model.path()), ("WanPipeline", &*wan()));
    let classes = ComponentKind::ALL.map(|kind| {
        let component = model.component(kind).unwrap();
        assert_eq!(component.path, wan().join(kind.name()));
        assert!(component.config.is_object() && component.config_path().is_file());
        if kind.weights_stem().is_some() {
            assert!(component.weights().unwrap().tensors().names().len() > 0);
        }
        component.class_name
    });
    let expected = [
        "WanTransformer3DModel",
        "AutoencoderKLWan",
        "UMT5EncoderModel",
        "T5TokenizerFast",
        "UniPCMultistepScheduler",
    ];
    assert_eq!(classes, expected);
    let transformer = model.component(ComponentKind::Transformer).unwrap();
    assert_eq!(transformer.config_as::<Layers>().unwrap().num_layers, 2);
    assert!(transformer.require_class(&["WanTransformer3DModel"]).is_ok());
    let err = message(transformer.require_class(&["A", "B"]));
    assert!(
        err.starts_with("transformer \"WanTransformer3DModel\" is not supported, only A, B:"),
        "{err}"
    );
}

#[test]
fn the_embedding_of_the_text_encoder_has_two_names() {
    let text_encoder = weights(&wan(), ComponentKind::TextEncoder).unwrap();
    let names = ["shared.weight", "encoder.embed_tokens.weight"];
    let rows = names.map(|name| text_encoder.rows(name, [442, 24], &[441, 0]).unwrap());
    assert_eq!(rows[0].len(), 48);
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn a_path_that_is_no_model_says_what_is_expected() {
    let folder = temporary();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, "").unwrap();
    for (path, expected) in [
        (folder.path().join("nowhere"), "there is nothing here"),
        (file, "this is no folder"),
        (folder.path().to_owned(), "no model_index.json"),
    ] {
        let err = message(ModelFolder::open(&path));
        assert!(err.starts_with(expected) || err.contains(expected), "{err}");
        assert!(err.contains("diffusers layout"), "{err}");
        assert!(err.ends_with(path.to_str().unwrap()), "{err}");
    }
}

#[test]
fn a_model_index_with_something_unknown_is_refused_by_name() {
    let folder = temporary();
    let open = |edit: fn(&mut Value)| {
        edit_index(folder.path(), edit);
        message(ModelFolder::open(folder.path()))
    };
    for (err, expected) in [
        (
            open(|index| index["_class_name"] = json!("LTXPipeline")),
            "pipeline \"LTXPipeline\" is not supported, only WanPipeline, CogVideoXPipeline",
        ),
        (open(|index| index["_class_name"] = json!(3)), "\"_class_name\" is 3, expected"),
        (
            open(|index| index["transformer_2"] = json!(["diffusers", "WanTransformer3DModel"])),
            "component \"transformer_2\" of class \"WanTransformer3DModel\" is not supported",
        ),
        (open(|index| index["expand_timesteps"] = json!(true)), "option \"expand_timesteps\""),
        (open(|index| index["boundary_ratio"] = json!(0.875)), "\"boundary_ratio\" = 0.875"),
        (open(|index| *index = json!([1])), "invalid type"),
    ] {
        assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        assert!(err.contains("model_index.json"), "{err}");
    }
    edit_index(folder.path(), |index| {
        index["transformer_2"] = json!([null, null]);
        index["expand_timesteps"] = json!(false);
        index["boundary_ratio"] = Value::Null;
    });
    assert!(ModelFolder::open(folder.path()).is_ok());
    fs::write(folder.path().join("model_index.json"), "{\n  \"a\": 1,\n  b\n}").unwrap();
    let err = message(ModelFolder::open(folder.path()));
    assert!(err.contains("line 3") && err.contains("model_index.json"), "{err}");
}

#[test]
fn a_missing_component_is_named() {
    let folder = temporary();
    let vae = |edit: &dyn Fn()| {
        copy_folder(&wan(), folder.path());
        edit();
        message(weights(folder.path(), ComponentKind::Vae))
    };
    let path = |name: &str| folder.path().join(name);
    for (err, expected) in [
        (
            vae(&|| edit_index(folder.path(), |index| index["vae"] = json!([null, null]))),
            "the vae is missing, model_index.json does not name its class",
        ),
        (vae(&|| fs::remove_dir_all(path("vae")).unwrap()), "the vae is missing, it has no folder"),
        (
            vae(&|| fs::remove_file(path("vae/config.json")).unwrap()),
            "the vae is missing, its configuration is not there",
        ),
        (
            vae(&|| fs::write(path("vae/config.json"), "{\"a\":}").unwrap()),
            "unusable JSON at line 1, column 6",
        ),
        (vae(&|| fs::write(path("vae/config.json"), "[]").unwrap()), "invalid type: sequence"),
    ] {
        assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        assert!(err.contains(folder.path().to_str().unwrap()), "{err}");
    }
}

#[test]
fn a_wrong_configuration_value_names_key_and_file() {
    let folder = temporary();
    copy_folder(&wan(), folder.path());
    fs::write(folder.path().join("transformer/config.json"), "{\"num_layers\": \"two\"}").unwrap();
    let model = ModelFolder::open(folder.path()).unwrap();
    let component = model.component(ComponentKind::Transformer).unwrap();
    let err = message(component.config_as::<Layers>());
    assert!(err.starts_with("\"num_layers\" is \"two\": "), "{err}");
    assert!(err.ends_with("config.json"), "{err}");
}

#[test]
fn weights_are_found_under_every_name_in_use() {
    let stem = "diffusion_pytorch_model";
    let folder = temporary();
    copy_folder(&wan(), folder.path());
    let at = |name: &str| folder.path().join("vae").join(name);
    let mut current = at(&format!("{stem}.safetensors"));
    for variant in ["fp16", "bf16", "fp32"] {
        let next = at(&format!("{stem}.{variant}.safetensors"));
        fs::rename(&current, &next).unwrap();
        let vae = weights(folder.path(), ComponentKind::Vae).unwrap();
        assert_eq!(vae.tensors().path(), next);
        current = next;
    }
    let shard = format!("{stem}-00001-of-00001.safetensors");
    fs::rename(&current, at(&shard)).unwrap();
    let weight_map = json!({"weight_map": {"decoder.conv_in.bias": shard}}).to_string();
    for index in ["safetensors.index", "safetensors.index.fp16", "bf16.safetensors.index"] {
        let index = at(&format!("{stem}.{index}.json"));
        fs::write(&index, &weight_map).unwrap();
        let vae = weights(folder.path(), ComponentKind::Vae).unwrap();
        assert_eq!(vae.tensors().path(), index);
        assert_eq!(vae.tensors().names().collect::<Vec<_>>(), ["decoder.conv_in.bias"]);
        fs::remove_file(index).unwrap();
    }
}

#[test]
fn weights_under_no_usable_name_say_what_to_do() {
    let folder = temporary();
    copy_folder(&wan(), folder.path());
    let at = |name: &str| folder.path().join("text_encoder").join(name);
    fs::remove_file(at("model.safetensors")).unwrap();
    for (files, expected) in [
        (&[][..], "no weights, expected model.safetensors in "),
        (&["pytorch_model.bin"][..], "only \"pytorch_model.bin\": weights in safetensors format"),
        (&["models_t5.pth"][..], "only \"models_t5.pth\": weights in safetensors format"),
        (&["other.safetensors"][..], "only \"other.safetensors\": rename it"),
        (&["model-00001-of-00002.safetensors"][..], "model.safetensors.index.json for \"model-0"),
        (&["model.fp16.safetensors", "model.bf16.safetensors"][..], "keep one of them"),
    ] {
        for file in files {
            fs::write(at(file), "").unwrap();
        }
        let err = message(weights(folder.path(), ComponentKind::TextEncoder));
        assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        assert!(err.ends_with("text_encoder"), "{err}");
        for file in files {
            fs::remove_file(at(file)).unwrap();
        }
    }
}

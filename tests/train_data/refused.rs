//! Lists, models and caches that cannot be used.

use super::*;

#[test]
fn lists_name_clips_in_the_words_of_other_programs() {
    let clips = clip_folder();
    let at = |name: &str| clips.path().join(name);
    let absolute = at("pictures").display().to_string();
    let lines = [
        json!({ "file": "a2.gif", "caption": "One" }),
        json!({ "video": "a10.y4m", "prompt": "Two", "fps": 16 }),
        json!({ "file_name": absolute, "text": "Three" }),
        json!({ "path": "a2.gif", "caption": "One again" }),
    ];
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(at("list.jsonl"), format!("\u{feff}{}\r\n\n", text.join("\r\n"))).expect("a list");
    let list = list_clips(&at("list.jsonl")).expect("clips");
    let captions: Vec<&str> = list.clips.iter().map(|clip| clip.caption.as_str()).collect();
    assert_eq!(captions, ["One", "Two", "Three", "One again"]);
    assert_eq!(list.clips[2].path, at("pictures"));

    // Two captions of one clip share its latent.
    let out = place();
    let report = cache(&at("list.jsonl"), out.path(), &settings()).expect("a cache");
    assert_eq!((report.clips, report.made, report.texts), (4, 3, 5));

    // In a folder, a list comes before texts, and texts serve the rest.
    fs::rename(at("list.jsonl"), at("metadata.jsonl")).expect("renamed");
    let list = list_clips(clips.path()).expect("clips");
    let names: Vec<&str> = list.clips.iter().map(|clip| clip.name.as_str()).collect();
    let found =
        ["a2.gif", "a10.y4m", &absolute, "a2.gif", "animation.apng", "broken.gif", "short.gif"];
    assert_eq!(names, found);
}

#[test]
fn unusable_lists_are_refused_with_the_line() {
    let folder = place();
    let path = folder.path().join("list.jsonl");
    let good = r#"{"file": "a.gif", "caption": "x"}"#;
    for (line, word) in [
        ("{\"file\": \"a.gif\"", "no JSON object"),
        ("[1]", "no JSON object"),
        (r#"{"caption": "x"}"#, "no file"),
        (r#"{"file": "a.gif"}"#, "no caption"),
        (r#"{"file": 3, "caption": "x"}"#, "is no text"),
    ] {
        fs::write(&path, format!("{good}\n\n{line}\n")).expect("a list");
        assert_refused(list_clips(&path), &["line 3", word, "list.jsonl"]);
    }
    fs::write(&path, b"\n\xff\xfe\n").expect("a list");
    assert_refused(list_clips(&path), &["line 2", "UTF-8"]);
    fs::write(&path, vec![b'x'; 2 << 20]).expect("a list");
    assert_refused(list_clips(&path), &["line 1", "bytes"]);
    assert_refused(list_clips(&folder.path().join("gone")), &["cannot read the clips", "gone"]);
    assert_refused(list_clips(place().path()), &["no clips", "captions.jsonl"]);
    fs::remove_file(&path).expect("removed");
    fs::write(folder.path().join("captions.jsonl"), "oops").expect("a list");
    assert_refused(list_clips(folder.path()), &["line 1", "captions.jsonl"]);
}

#[test]
fn sizes_that_the_model_cannot_take_are_refused_before_any_work() {
    let (clips, out) = (clip_folder(), place());
    let with = |change: &dyn Fn(&mut Buckets)| {
        let mut settings = settings();
        change(&mut settings.buckets);
        cache(clips.path(), out.path(), &settings)
    };
    assert_refused(with(&|b| b.sizes = vec![[40, 32]]), &["40x32", "multiple of 16"]);
    assert_refused(with(&|b| b.sizes = vec![[0, 32]]), &["0x32"]);
    assert_refused(with(&|b| b.sizes = vec![[1 << 30, 32]]), &["limit of 16384"]);
    assert_refused(with(&|b| b.frames = vec![5, 8]), &["8 frames", "multiple of 4 plus one"]);
    assert_refused(with(&|b| b.frames = vec![]), &["at least one"]);
    assert_refused(with(&|b| b.stride = Some(0)), &["stride of 0"]);
    let missing = out.path().join("no").join("parent");
    assert_refused(cache(clips.path(), &missing, &settings()), &["does not exist", "no"]);
    assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 0, "something was written");
}

/// A copy of the model whose file `name` has another last byte but three: another small value.
fn other_model(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).expect("a copy");
            }
        }
    }
    let folder = place();
    copy(&fixture("wan_a"), folder.path());
    let path = folder.path().join(name);
    let mut bytes = fs::read(&path).expect("a file");
    let at = bytes.len() - 4;
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    folder
}

#[test]
fn caches_of_another_model_are_refused() {
    let (clips, out) = (clip_folder(), place());
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    let device = OpenDevice::cpu().device;
    for (file, what) in [
        ("vae/diffusion_pytorch_model.safetensors", "another autoencoder"),
        ("text_encoder/model.safetensors", "another text encoder"),
        ("tokenizer/tokenizer.json", "another text encoder or tokenizer"),
    ] {
        let folder = other_model(file);
        let Ok(other) = VideoModel::open(folder.path()) else { continue };
        let opened = CachedDataset::open(out.path(), &other, &device, false);
        assert_refused(opened, &["made with another model", what, "index.json"]);
    }
    // A transformer that was trained further keeps its cache.
    let tuned = other_model("transformer/diffusion_pytorch_model.safetensors");
    let tuned = VideoModel::open(tuned.path()).expect("a model");
    CachedDataset::open(out.path(), &tuned, &device, false).expect("a data set");

    let edit = |change: &dyn Fn(&mut Value)| {
        let path = out.path().join(INDEX_FILE);
        let before = fs::read_to_string(&path).expect("an index");
        let mut index: Value = serde_json::from_str(&before).expect("JSON");
        change(&mut index);
        fs::write(&path, index.to_string()).expect("written");
        let opened = open(out.path());
        fs::write(&path, before).expect("written");
        opened
    };
    assert_refused(
        edit(&|index| index["model"]["z_dim"] = json!(16)),
        &["z_dim is 16", "model's 4"],
    );
    assert_refused(edit(&|index| index["model"]["text_dim"] = json!(4096)), &["text_dim is 4096"]);
    let tokens = edit(&|index| index["model"]["text_tokens"] = json!(7));
    assert_refused(tokens, &["max_sequence_length is 7"]);
    assert_refused(edit(&|index| index["version"] = json!(9)), &["qvgen-cache 9"]);
    assert_refused(edit(&|index| index["format"] = json!("other")), &["format"]);
    assert_refused(edit(&|index| index["entries"] = json!([])), &["no clips"]);
    let hostile = edit(&|index| index["entries"][0]["latent"] = json!("../../../etc/passwd"));
    assert_refused(hostile, &["no index of a cache", "hexadecimal"]);
    let odd = edit(&|index| index["entries"][0]["shape"] = json!([4, 2, 3, 4]));
    assert_refused(odd, &["[4, 2, 3, 4]", "multiples of 2"]);
    let large = edit(&|index| index["entries"][0]["shape"] = json!([4, 5000, 4, 4]));
    assert_refused(large, &["up to 1024 frames"]);
    assert_refused(open(place().path()), &["there is no cache", "qvgen cache"]);
    fs::write(out.path().join(INDEX_FILE), "{").expect("written");
    assert_refused(open(out.path()), &["no index of a cache"]);
    assert_refused(cache(clips.path(), out.path(), &settings()), &["no index of a cache"]);
}

#[test]
fn damaged_caches_are_refused_when_they_are_opened() {
    let (clips, out) = (clip_folder(), place());
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    let index = Index::read(out.path()).expect("an index").expect("an index");
    let file = |folder: &str, key: &str| out.path().join(folder).join(format!("{key}.safetensors"));
    let latent = file("latents", index.entries[0].latent.as_str());
    let whole = fs::read(&latent).expect("a latent");
    fs::write(&latent, &whole[..whole.len() - 1]).expect("written");
    assert_refused(open(out.path()), &["missing or damaged", "safetensors"]);
    // NaN passes the headers, and is found when the clip is drawn.
    let mut bytes = whole.clone();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&latent, bytes).expect("written");
    assert_refused(open(out.path()).expect("a data set").clip(0), &["NaN", "delete it"]);
    fs::write(&latent, whole).expect("written");
    fs::remove_file(file("texts", index.entries[1].text.as_str())).expect("removed");
    assert_refused(open(out.path()), &["missing or damaged", "texts"]);
    cache(clips.path(), out.path(), &settings()).expect("a cache");
    open(out.path()).expect("a data set");
}

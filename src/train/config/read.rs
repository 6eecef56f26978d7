//! From a file and the command line to a [`Config`], with errors that say where.

use super::{Config, TrainError, setting};
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// Far above any configuration.
const MAX_BYTES: u64 = 1 << 20;

/// A value that the command line changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What was typed, for messages.
    pub flag: String,
    /// Dotted key, such as `loop.steps`.
    pub key: String,
    /// A TOML value, or the text of a string without its quotes.
    pub value: String,
}

impl Override {
    /// What `--set key=value` asks for.
    ///
    /// # Errors
    ///
    /// If there is no key or no `=`.
    pub fn parse(text: &str) -> Result<Self, TrainError> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self {
                flag: format!("--set {text}"),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => Err(setting(format!(
                "--set {text}: write key=value, for example --set loop.steps=500"
            ))),
        }
    }

    /// What a flag of its own asks for.
    pub fn of_flag(flag: &str, key: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        Self { flag: format!("{flag} {value}"), key: key.to_owned(), value }
    }

    /// What a repeatable flag of its own asks for: its values are all of the list.
    pub fn of_repeated(flag: &str, key: &str, values: Vec<String>) -> Self {
        let typed: Vec<String> = values.iter().map(|value| format!("{flag} {value}")).collect();
        let list = Value::Array(values.into_iter().map(Value::String).collect());
        Self { flag: typed.join(" "), key: key.to_owned(), value: list.to_string() }
    }

    /// The readings of the value: as TOML if it is any, and as a bare string.
    fn readings(&self) -> Vec<Value> {
        let parsed = toml::from_str::<Table>(&format!("value = {}", self.value)).ok();
        let parsed = parsed.filter(|table| table.len() == 1);
        let parsed = parsed.and_then(|mut table| table.remove("value"));
        let bare = Value::String(self.value.clone());
        parsed.into_iter().chain([bare]).collect()
    }

    /// `table` with the change.
    fn applied(&self, table: &Table, value: Value) -> Result<Table, String> {
        let mut changed = table.clone();
        let (path, last) = self.key.rsplit_once('.').unwrap_or(("", &self.key));
        let mut place = &mut changed;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            let entry = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
            place = entry.as_table_mut().ok_or_else(|| format!("{name} is no section"))?;
        }
        place.insert(last.to_owned(), value);
        Ok(changed)
    }
}

impl Config {
    /// Reads the file at `path` and changes it by `overrides`, the last one winning.
    ///
    /// # Errors
    ///
    /// One sentence that names file, line and key, or the flag; and as [`Config::check`].
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, TrainError> {
        let unreadable =
            |err: std::io::Error| setting(format!("cannot read {}: {err}", path.display()));
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_BYTES {
            return Err(setting(format!("{} is too large for a configuration", path.display())));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::from_text(&text, &path.display().to_string(), overrides)
    }

    /// As [`Config::load`], of `text` that was read from `name`.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn from_text(text: &str, name: &str, overrides: &[Override]) -> Result<Self, TrainError> {
        let in_file = |err: toml::de::Error| setting(place_of(&err, text, name));
        // Keys may be missing here that the command line gives, so the file alone need not be
        // complete; what it has must be right.
        let mut table: Table = toml::from_str(text).map_err(in_file)?;
        if overrides.is_empty() {
            let config: Self = toml::from_str(text).map_err(in_file)?;
            config.check()?;
            return Ok(config);
        }
        if let Err(err) = toml::from_str::<Self>(text)
            && !err.message().starts_with("missing field")
        {
            return Err(in_file(err));
        }
        for change in overrides {
            table = apply(&table, change)?;
        }
        let config: Self = table.try_into().map_err(|err: toml::de::Error| {
            setting(format!("{name}: {}", one_line(err.message())))
        })?;
        config.check()?;
        Ok(config)
    }
}

/// `table` with `change`, in the first reading of its value that fits.
fn apply(table: &Table, change: &Override) -> Result<Table, TrainError> {
    let refused = |problem: &str| setting(format!("{}: {}", change.flag, one_line(problem)));
    let mut problem = String::new();
    for value in change.readings() {
        let changed = change.applied(table, value).map_err(|err| refused(&err))?;
        match changed.clone().try_into::<Config>() {
            Err(err) if !err.message().starts_with("missing field") => {
                // The first reading is what was most likely meant.
                if problem.is_empty() {
                    problem = err.message().to_owned();
                }
            }
            _ => return Ok(changed),
        }
    }
    Err(refused(&problem))
}

/// `err` with the line of `text` where it arose.
fn place_of(err: &toml::de::Error, text: &str, name: &str) -> String {
    let problem = one_line(err.message());
    let Some(span) = err.span() else { return format!("{name}: {problem}") };
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let line: String = line.chars().take(80).collect();
    format!("{name}, line {number} (`{line}`): {problem}")
}

/// A parser's message as part of a sentence.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::checkpoint::LoraFile;

    const FILE: &str = "model = \"m\"\nout = \"o\"\n\n[data]\nrandom = 4\n\n[loop]\nsteps = 100\n";

    fn read(text: &str, sets: &[&str]) -> Result<Config, String> {
        let overrides: Vec<Override> =
            sets.iter().map(|text| Override::parse(text).expect("key=value")).collect();
        Config::from_text(text, "x.toml", &overrides).map_err(|err| err.to_string())
    }

    #[test]
    fn the_command_line_changes_any_value() {
        let config = read(
            FILE,
            &[
                "loop.steps=7",
                "optimizer.learning_rate=1e-4",
                "out=other folder",
                "layers=[\"blocks.0.*=w8a8\"]",
                "recipe.ranks=[8, 4]",
                "log.sample_prompts=[\"a = b\"]",
                "method=q-dm",
                "method=qvgen",
                "model=7",
            ],
        )
        .unwrap();
        assert_eq!(config.training.steps, 7);
        assert_eq!(config.out.to_str(), Some("other folder"));
        assert_eq!(config.layers[0].to_string(), "blocks.0.*=w8a8");
        assert_eq!(config.recipe.ranks, Some(vec![8, 4]));
        assert_eq!(config.log.sample_prompts, ["a = b"]);
        assert_eq!(config.model, "7");
        // A file that lacks what the command line gives.
        assert!(read("model = \"m\"", &["out=o", "data.random=2"]).is_ok());
    }

    #[test]
    fn a_repeated_flag_is_the_whole_list() {
        let file = format!("loras = [\"a.safetensors\"]\n{FILE}");
        let loras = |overrides: &[Override]| {
            let config = Config::from_text(&file, "x.toml", overrides).expect("a configuration");
            config.loras.iter().map(LoraFile::to_argument).collect::<Vec<_>>()
        };
        assert_eq!(loras(&[]), ["a.safetensors=1"]);
        let given = ["b \"c\".safetensors", "C:\\d=-0.5"].map(str::to_owned).to_vec();
        let change = Override::of_repeated("--lora", "loras", given);
        assert_eq!(loras(&[change]), ["b \"c\".safetensors=1", "C:\\d=-0.5"]);
        let wrong = Override::of_repeated("--lora", "loras", vec!["a=x".to_owned()]);
        let error = Config::from_text(&file, "x.toml", &[wrong]).unwrap_err().to_string();
        assert!(error.contains("--lora a=x: ") && error.contains("is no number"), "{error}");
    }

    #[test]
    fn a_written_configuration_is_read_back() {
        let changes =
            ["recipe.annealing=linear", "optimizer.average_decay=0.99", "loras=[\"a=0.5\"]"];
        let config = read(FILE, &changes);
        let config = config.unwrap();
        let again = read(&config.to_toml(), &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.essence(), config.essence());
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_its_line() {
        for (line, words) in [
            ("steps = \"many\"", &["x.toml, line 8", "steps = \"many\"", "invalid type"][..]),
            ("stepz = 3", &["line 8", "unknown field `stepz`", "`steps`"]),
            ("steps = ", &["line 8"]),
            ("batch = -1", &["line 8", "batch = -1"]),
        ] {
            let error = read(&FILE.replace("steps = 100", line), &[]).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = read(&FILE.replace("model", "modell"), &[]).unwrap_err();
        assert!(error.contains("line 1") && error.contains("modell"), "{error}");
        let error = read("out = \"o\"", &[]).unwrap_err();
        assert!(error.contains("x.toml") && error.contains("missing field `model`"), "{error}");
    }

    #[test]
    fn what_is_wrong_on_the_command_line_is_named_with_its_flag() {
        for (set, words) in [
            ("loop.stepz=3", &["--set loop.stepz=3", "unknown field `stepz`"][..]),
            ("loop.steps=many", &["--set loop.steps=many", "invalid type"]),
            ("method=qvgn", &["--set method=qvgn", "efficient-dm"]),
            ("bits=w5a5", &["--set bits=w5a5", "w4a4"]),
            ("layers=[\"a\"]", &["pattern=precision"]),
            ("loras=[\"a=x\"]", &["the strength \"x\" is no number"]),
            ("model.x=3", &["model is no section"]),
        ] {
            let error = read(FILE, &[set]).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{set}: {error}");
        }
        assert!(Override::parse("steps").unwrap_err().to_string().contains("key=value"));
    }
}

//! The filters of List: `name==x,labels."k"~=/^v/`.
//!
//! A comma joins conditions by AND; several filters are joined by OR. Filters come from any client
//! of containerd, so length, number and the memory of regular expressions are bounded, and matching
//! takes time linear in the value.
use bolide_core::{Error, ErrorKind, Result};
use regex::{Regex, RegexBuilder};

use crate::lifecycle::Snapshot;

const MAX_FILTERS: usize = 256;
const MAX_LEN: usize = 16 * 1024;
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Parsed filters; without any, everything matches.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: Field,
    test: Test,
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// Present in no snapshot: filters are shared with other kinds of objects.
    Unknown,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Parses filters. `Malformed` names filter, place and rule; `Exhausted` when there are too
    /// many, or they are too long.
    pub(crate) fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        if filters.len() > MAX_FILTERS || filters.iter().any(|text| text.as_ref().len() > MAX_LEN) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                PARSE,
                "a list may have 256 filters of 16 KiB",
            ));
        }
        filters
            .iter()
            .map(|text| Parser::new(text.as_ref()).filter())
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Whether any filter matches.
    pub(crate) fn matches(&self, snapshot: &Snapshot) -> bool {
        let all = |filter: &Vec<Condition>| filter.iter().all(|one| one.matches(snapshot));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Condition {
    fn matches(&self, snapshot: &Snapshot) -> bool {
        let value = match &self.field {
            Field::Name => Some(snapshot.name.as_str()),
            Field::Parent => Some(snapshot.parent.as_str()),
            Field::Kind => Some(snapshot.kind.name()),
            Field::Label(key) => snapshot.labels.get(key).map(String::as_str),
            Field::Unknown => None,
        };
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            // As containerd has it: what is absent equals nothing, and reads as empty.
            Test::NotEqual(wanted) => value.unwrap_or_default() != wanted,
            Test::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

const PARSE: &str = "filters::parse";

/// Reads one filter from left to right.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn filter(mut self) -> Result<Vec<Condition>> {
        let mut conditions = Vec::new();
        if self.peek().is_none() {
            return Ok(conditions);
        }
        loop {
            conditions.push(self.condition()?);
            match self.peek() {
                None => return Ok(conditions),
                Some(',') => self.at += 1,
                Some(_) => return Err(self.refuse("a comma must stand between two conditions")),
            }
        }
    }

    fn condition(&mut self) -> Result<Condition> {
        let field = self.field()?;
        let rest = &self.text[self.at..];
        let operator = match self.peek() {
            None | Some(',') => return Ok(Condition { field, test: Test::Present }),
            _ => ["==", "!=", "~="].into_iter().find(|operator| rest.starts_with(operator)),
        };
        let operator =
            operator.ok_or_else(|| self.refuse("an operator must be one of == != ~="))?;
        self.at += operator.len();
        let value = self.value()?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => Test::Matches(self.regex(&value)?),
        };
        Ok(Condition { field, test })
    }

    fn regex(&self, pattern: &str) -> Result<Regex> {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES);
        builder.build().map_err(|error| {
            self.refuse("the value of ~= must be a regular expression").with_source(error)
        })
    }

    /// `name`, `labels."k"`, `labels.a.b`: parts between dots, the first a bare word.
    fn field(&mut self) -> Result<Field> {
        let mut parts = vec![self.part()?];
        while self.peek() == Some('.') {
            self.at += 1;
            parts.push(self.part()?);
        }
        Ok(match parts.split_first() {
            Some((first, [])) => match first.as_str() {
                "name" => Field::Name,
                "parent" => Field::Parent,
                "kind" => Field::Kind,
                _ => Field::Unknown,
            },
            Some((first, rest)) if first == "labels" => Field::Label(rest.join(".")),
            _ => Field::Unknown,
        })
    }

    fn part(&mut self) -> Result<String> {
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if word.is_empty() { Err(self.refuse("a field must have a name")) } else { Ok(word.into()) }
    }

    fn value(&mut self) -> Result<String> {
        match self.peek() {
            Some(quote @ ('"' | '/' | '|')) => self.quoted(quote),
            None | Some(',') => Err(self.refuse("an operator must be followed by a value")),
            Some(_) => Ok(self.take_while(|c| c != ',' && !c.is_whitespace()).to_owned()),
        }
    }

    /// Text between two quotes. In regular expressions, which stand between slashes or bars, only
    /// the quote itself is escaped; in strings, what Go's strings escape most.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        let mut rest = self.text[self.at..].char_indices().skip(1);
        while let Some((_, c)) = rest.next() {
            if c == quote {
                self.at = rest.next().map_or(self.text.len(), |(next, _)| self.at + next);
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match rest.next().map(|(_, c)| c) {
                Some(escaped) if escaped == quote => text.push(quote),
                Some(other) if quote != '"' => text.extend(['\\', other]),
                Some('\\') => text.push('\\'),
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                _ => return Err(self.refuse("a string may escape only \\\" \\\\ \\n and \\t")),
            }
        }
        Err(self.refuse("a quote is not closed"))
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let len = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// The next character that is not blank.
    fn peek(&mut self) -> Option<char> {
        self.take_while(char::is_whitespace);
        self.text[self.at..].chars().next()
    }

    fn refuse(&self, rule: &'static str) -> Error {
        let shown: String = self.text.chars().take(200).collect();
        Error::new(ErrorKind::Malformed, PARSE, rule)
            .with_context("filter", format!("{shown:?}"))
            .with_context("at", self.at)
    }
}

#[cfg(test)]
mod tests;

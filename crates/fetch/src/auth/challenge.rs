//! Reads `WWW-Authenticate` (RFC 9110, 11.6.1) from servers that may be hostile.

/// Bounds what one header may make us do.
const MAX_HEADER: usize = 8 * 1024;
const MAX_CHALLENGES: usize = 8;

/// One way the server would let us in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user's name and password.
    Basic,
    /// A token of another server.
    Bearer {
        /// URL that hands out tokens.
        realm: String,
        /// Name of the registry there.
        service: Option<String>,
        /// What the token must allow, separated by spaces.
        scope: Option<String>,
    },
}

/// The challenges of one header value that we can answer, in order. Text that does not follow the
/// grammar ends the list; what came before it counts.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    if header.len() > MAX_HEADER {
        return found;
    }
    let mut input = Input(header);
    while found.len() < MAX_CHALLENGES {
        input.skip(|b| b == b' ' || b == b'\t' || b == b',');
        let Some(scheme) = input.token() else { break };
        let params = input.params();
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let get = |name: &str| {
                let mut same = params.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                same.next().map(|(_, value)| value.clone())
            };
            if let Some(realm) = get("realm") {
                let (service, scope) = (get("service"), get("scope"));
                found.push(Challenge::Bearer { realm, service, scope });
            }
        }
    }
    found
}

struct Input<'a>(&'a str);

impl<'a> Input<'a> {
    fn skip(&mut self, wanted: impl Fn(u8) -> bool) {
        let end = self.0.bytes().position(|b| !wanted(b)).unwrap_or(self.0.len());
        // Only ASCII is skipped, so this is a character boundary.
        self.0 = &self.0[end..];
    }

    fn spaces(&mut self) {
        self.skip(|b| b == b' ' || b == b'\t');
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
        let end = self.0.bytes().position(|b| !is_token(b)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// `name=value` pairs up to the next scheme, which is a token that no `=` follows.
    fn params(&mut self) -> Vec<(&'a str, String)> {
        let mut params = Vec::new();
        loop {
            let before = self.0;
            self.skip(|b| b == b' ' || b == b'\t' || b == b',');
            let Some(name) = self.token() else { return params };
            self.spaces();
            let Some(rest) = self.0.strip_prefix('=') else {
                self.0 = before;
                return params;
            };
            self.0 = rest;
            self.spaces();
            let Some(value) = self.value() else {
                // An unfinished value leaves nothing that could be trusted.
                self.0 = "";
                return params;
            };
            params.push((name, value));
        }
    }

    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().map(str::to_owned);
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn what_registries_send() {
        let header =
            r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:a/b:pull,push""#;
        let scope = Some("repository:a/b:pull,push");
        assert_eq!(parse(header), [bearer("https://a.io/token", Some("r.io"), scope)]);
        assert_eq!(parse(r#"basic realm="x y""#), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, Basic realm="a, b", BEARER Realm = r , scope="q\"q""#),
            [Challenge::Basic, bearer("r", None, Some("q\"q"))]
        );
    }

    #[test]
    fn broken_headers_yield_nothing_to_answer() {
        for header in
            ["", ",,,", "Bearer", "Bearer realm=", r#"Bearer realm="open"#, "=x", "\u{e9}"]
        {
            assert_eq!(parse(header), [], "{header}");
        }
        assert_eq!(parse(&format!("Basic {}", "a".repeat(MAX_HEADER))), []);
        assert_eq!(parse(&"Basic,".repeat(100)).len(), MAX_CHALLENGES);
    }

    proptest! {
        #[test]
        fn any_text_ends(header in "\\PC{0,200}") {
            prop_assert!(parse(&header).len() <= MAX_CHALLENGES);
        }

        #[test]
        fn any_likely_text_ends(header in "[Baser =,\"\\\\]{0,60}") {
            prop_assert!(parse(&header).len() <= MAX_CHALLENGES);
        }
    }
}

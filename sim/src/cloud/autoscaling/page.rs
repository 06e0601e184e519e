//! Cuts lists into pages.

use crate::cloud::errors::ApiError;
use crate::cloud::wire::Params;

/// Records on a page: the default, and the largest number that a caller can request.
const PAGE: usize = 50;

/// Returns one page of `all`, and the token of the next. A token is the position where the next page starts.
pub(super) fn page<T>(
    all: Vec<T>,
    params: &Params,
    largest: usize,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let size = params.parsed("MaxRecords")?.unwrap_or(PAGE);
    if size == 0 || size > largest {
        return Err(ApiError::validation(format!("MaxRecords must be between 1 and {largest}")));
    }
    let start = match params.get("NextToken") {
        None => 0,
        Some(token) => token.parse().ok().filter(|start| *start <= all.len()).ok_or_else(|| {
            ApiError::new(400, "InvalidNextToken", format!("Invalid next token: {token}"))
        })?,
    };
    let next = (start + size < all.len()).then(|| (start + size).to_string());
    Ok((all.into_iter().skip(start).take(size).collect(), next))
}

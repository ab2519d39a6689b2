//! The eStargz layer format: footer, TOC, verified index and writer

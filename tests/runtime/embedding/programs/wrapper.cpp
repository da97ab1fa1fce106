// wrapper DRAFT TARGET: what s2d.hpp adds to s2d.h.
#include <s2d.hpp>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1); \
        } \
    } while (0)

template <typename Call> static int status_of(Call call)
{
    try {
        call();
    } catch (const s2d::Error &error) {
        CHECK(error.what()[0] != '\0');
        return error.status;
    }
    return S2D_OK;
}

int main(int, char **argv)
{
    s2d::Library library;
    CHECK(status_of([] { s2d::Library second; }) == S2D_ERROR_STATE);
    CHECK(status_of([] { s2d::Target("nowhere"); }) == S2D_ERROR_BUNDLE);

    s2d::Draft draft(argv[1]);
    s2d::Target target(argv[2], &draft);
    CHECK(target.facts().name == std::string("target"));
    const std::string longer(3000, 'a');
    CHECK(target.detokenize(target.tokenize("a tree", false)) == "a tree");
    CHECK(target.detokenize(target.tokenize(longer)) == longer);
    CHECK(status_of([&] { target.chat({{"user", "a"}}); }) == S2D_ERROR_BUNDLE);

    s2d_options options = s2d::options();
    options.max_new_tokens = 8;
    std::string text, again;
    s2d::Request request(target, "the draft", options);
    while (const s2d_step *step = request.next())
        text += step->text;
    CHECK(request.stats().new_tokens == 8);
    s2d::Request same(target, target.tokenize("the draft"), options);
    same.run([&](const s2d_step &step) { again += step.text; });
    CHECK(text == again);

    options.max_new_tokens = 200;
    s2d::Request cancelled(target, "the draft", options);
    cancelled.cancel();
    cancelled.run([](const s2d_step &) {});
    CHECK(cancelled.stats().finish == S2D_FINISH_CANCELLED);
    try {
        s2d::Request thrown(target, "the draft", options);
        thrown.run([](const s2d_step &) { throw std::runtime_error("enough"); });
        CHECK(false);
    } catch (const std::runtime_error &error) {
        CHECK(error.what() == std::string("enough"));
    }
}

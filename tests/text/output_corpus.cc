#include "tests/text/output_corpus.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace shoal::text {
namespace {

using Kind = OutputEvent::Kind;
using Says = std::vector<OutputEvent>;

constexpr OutputFormat kNone{};
constexpr OutputFormat kHermes{ToolFormat::kHermes};
constexpr OutputFormat kLlama{ToolFormat::kLlama3Json};
constexpr OutputFormat kMistral{ToolFormat::kMistral};
constexpr OutputFormat kPhi{ToolFormat::kPhi4MiniJson};
constexpr OutputFormat kGeneric{ToolFormat::kGeneric};
constexpr OutputFormat kQwen3{ToolFormat::kHermes, ReasoningFormat::kQwen3};
constexpr OutputFormat kQwen3Begun{ToolFormat::kHermes, ReasoningFormat::kQwen3, true};
constexpr OutputFormat kR1{ToolFormat::kNone, ReasoningFormat::kDeepSeekR1, true};
constexpr OutputFormat kMagistral{ToolFormat::kMistral, ReasoningFormat::kMistral};

OutputEvent Content(std::string text) { return {Kind::kContent, -1, std::move(text)}; }
OutputEvent Thought(std::string text) { return {Kind::kReasoning, -1, std::move(text)}; }

// The calls and content of an answer in their order; calls are numbered.
struct Part {
  bool call;
  std::string text, arguments;
};
Part Call(std::string name, std::string arguments) { return {true, std::move(name), std::move(arguments)}; }
Part Text(std::string text) { return {false, std::move(text), {}}; }

Says Parts(std::initializer_list<Part> parts) {
  Says says;
  int call = 0;
  for (const Part& part : parts) {
    if (!part.call) {
      says.push_back(Content(part.text));
      continue;
    }
    says.push_back({Kind::kCallBegins, call, part.text});
    if (!part.arguments.empty()) says.push_back({Kind::kArguments, call, part.arguments});
    ++call;
  }
  return says;
}

void AddHermes(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"one call", kHermes,
           "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
           Parts({Call("get_weather", R"({"city": "Paris"})")})},
          {"text, two calls", kHermes,
           "Let me look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n"
           "<tool_call>\n{\"name\": \"b\", \"arguments\": {\"y\": [1, {\"z\": null}]}}\n</tool_call>\n",
           Parts({Text("Let me look.\n"), Call("a", R"({"x": 1})"), Call("b", R"({"y": [1, {"z": null}]})")})},
          {"text between and after", kHermes,
           R"(<tool_call>{"name":"a","arguments":{}}</tool_call> then <tool_call>{"name":"b","arguments":{}})"
           "</tool_call>\n\nDone. ",
           Parts({Call("a", "{}"), Text("then "), Call("b", "{}"), Text("Done. ")})},
          {"quotes, braces and markers in strings", kHermes,
           R"(<tool_call>{"name":"write","arguments":{"text":"a \"}\" {[ \\","html":"</tool_call><tool_call>"}})"
           "</tool_call>",
           Parts({Call("write", R"({"text":"a \"}\" {[ \\","html":"</tool_call><tool_call>"})")})},
          {"unicode", kHermes,
           R"(Ça va: 日本 <tool_call>{"name":"météo_日本","arguments":{"ville":"東京 \u6771\ud83d\ude00 😀"}}</tool_call>)",
           Parts({Text("Ça va: 日本 "), Call("météo_日本", R"({"ville":"東京 \u6771\ud83d\ude00 😀"})")})},
          {"escapes in the name", kHermes, R"(<tool_call>{"n\u0061me":"a\u00e9\ud83d\ude00\/b","arguments":{}})",
           Parts({Call("aé😀/b", "{}")})},
          {"white space is kept within arguments only", kHermes,
           "<tool_call> \t\n{ \"name\" : \"f\" , \"arguments\" : {  \"a\" :\n 1 } } \n </tool_call> \n",
           Parts({Call("f", "{  \"a\" :\n 1 }")})},
      });
}

void AddHermesArguments(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"arguments first", kHermes, R"(<tool_call>{"arguments": {"a": "b"}, "name": "f"}</tool_call>)",
           Parts({Call("f", R"({"a": "b"})")})},
          {"arguments first, a number and null", kHermes,
           R"(<tool_call>{"arguments": 12, "name": "f"}{"arguments": null , "name": "g"}</tool_call>)",
           Parts({Call("f", "12"), Call("g", "{}")})},
          {"parameters, other keys", kHermes,
           R"(<tool_call>{"id":"c1","type":"function","x":{"name":"no"},"name":"f","parameters":{"a":1},"z":[{}]})"
           "</tool_call>",
           Parts({Call("f", R"({"a":1})")})},
          {"keys twice", kHermes,
           R"(<tool_call>{"name":"f","name":"g","arguments":{"a":1},"arguments":{"b":2},"parameters":3})"
           "</tool_call>",
           Parts({Call("f", R"({"a":1})")})},
          {"arguments in a string", kHermes,
           R"(<tool_call>{"name":"f","arguments":"{\"a\": \"\\\"é\u00e9\\n\"}"}</tool_call>)",
           Parts({Call("f", R"({"a": "\"éé\n"})")})},
          {"arguments in a string, first", kHermes, R"(<tool_call>{"arguments":"{\"a\": 1}","name":"f"}</tool_call>)",
           Parts({Call("f", R"({"a": 1})")})},
          {"a string that holds no object", kHermes, R"(<tool_call>{"name":"f","arguments":"Paris \"x\""}</tool_call>)",
           Parts({Call("f", R"("Paris \"x\"")")})},
          {"no arguments", kHermes,
           R"(<tool_call>{"name":"a"}</tool_call><tool_call>{"name":"b","arguments":""}</tool_call>)"
           R"(<tool_call>{"name":"c","arguments":null}</tool_call><tool_call>{"name":"d","arguments":{}}</tool_call>)",
           Parts({Call("a", "{}"), Call("b", "{}"), Call("c", "{}"), Call("d", "{}")})},
          {"arguments that are no object", kHermes,
           R"(<tool_call>{"name":"a","arguments":[1]}{"name":"b","arguments":-1.5e+3}{"name":"c","arguments":nil})"
           "</tool_call>",
           Parts({Call("a", "[1]"), Call("b", "-1.5e+3"), Call("c", "nil")})},
          {"a brace too many", kHermes, "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}}\n</tool_call>",
           Parts({Call("f", R"({"a":1})")})},
          {"a brace too few", kHermes,
           R"(<tool_call>{"name":"f","arguments":{"a":1}</tool_call><tool_call>{"name":"g","arguments":{"a":{}</tool_call>)",
           Parts({Call("f", R"({"a":1})"), Call("g", R"({"a":{})")})},
          {"no end marker between", kHermes,
           R"(<tool_call>{"name":"f","arguments":{}}<tool_call>{"name":"g","arguments":{}}</tool_call>)",
           Parts({Call("f", "{}"), Call("g", "{}")})},
          {"a list", kHermes, R"(<tool_call>[{"name":"f","arguments":{}}, {"name":"g","arguments":{}}]</tool_call> ok)",
           Parts({Call("f", "{}"), Call("g", "{}"), Text("ok")})},
          {"white space alone before a call is none", kHermes, "\n\n<tool_call>{\"name\":\"f\"}</tool_call>",
           Parts({Call("f", "{}")})},
          {"nor does it come later", kHermes, "\n<tool_call>{\"name\":\"f\"}</tool_call>x",
           Parts({Call("f", "{}"), Text("x")})},
          {"white space before text is kept", kHermes, "\n\n hello \n", Parts({Text("\n\n hello \n")})},
      });
}

void AddHermesMistakes(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"not quite the marker", kHermes, "a < b <tool <tool_call <tool_calls> <<tool_call",
           Parts({Text("a < b <tool <tool_call <tool_calls> <<tool_call")})},
          {"the marker twice", kHermes, R"(<tool_call><tool_call>{"name":"f","arguments":{}}</tool_call>)",
           Parts({Text("<tool_call>"), Call("f", "{}")})},
          {"no object", kHermes, "<tool_call>get_weather()</tool_call> x",
           Parts({Text("<tool_call>get_weather()</tool_call> x")})},
          {"single quotes", kHermes, "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>",
           Parts({Text("<tool_call>{'name': 'f', 'arguments': {}}</tool_call>")})},
          {"no name", kHermes, R"(<tool_call>{"arguments": {"a": "é"}}</tool_call>)",
           Parts({Text(R"(<tool_call>{"arguments": {"a": "é"}}</tool_call>)")})},
          {"an empty name", kHermes, R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)",
           Parts({Text(R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)")})},
          {"a name that is no string", kHermes, R"(<tool_call>{"name": 1, "arguments": {}}</tool_call>)",
           Parts({Text(R"(<tool_call>{"name": 1, "arguments": {}}</tool_call>)")})},
          {"no JSON", kHermes,
           R"(<tool_call>{"name" "f"}</tool_call><tool_call>{"name":"f",)"
           R"("arguments"}</tool_call><tool_call>{"name":"f";}</tool_call><tool_call>{,})",
           Parts({Text(R"(<tool_call>{"name" "f"}</tool_call><tool_call>{"name":"f",)"
                       R"("arguments"}</tool_call><tool_call>{"name":"f";}</tool_call><tool_call>{,})")})},
          {"no call, then a call", kHermes,
           R"(<tool_call>{"a": <tool_call>{"name":"f","arguments":{"q":"?"}}</tool_call>)",
           Parts({Text(R"(<tool_call>{"a": )"), Call("f", R"({"q":"?"})")})},
          {"a call, then none", kHermes, R"(<tool_call>{"name":"f","arguments":{}}{"x":1}</tool_call>)",
           Parts({Call("f", "{}"), Text(R"({"x":1})")})},
          {"mistakes within arguments are the model's", kHermes,
           R"(<tool_call>{"name":"f","arguments":{'a': True, "b": [1,}, }}</tool_call>)",
           Parts({Call("f", R"({'a': True, "b": [1,}, })")})},
          {"no such escape", kHermes, R"(<tool_call>{"name":"a\qb\u12xy\ud800z","arguments":"{\"a\":\"\\q\x\"}"})",
           Parts({Call("a\\qb\\u12xy\xEF\xBF\xBDz", R"({"a":"\q\x"})")})},
          {"end marker that ends nothing", kHermes, "a </tool_call> b", Parts({Text("a </tool_call> b")})},
          {"empty", kHermes, "", {}},
          {"white space", kHermes, " \n", Parts({Text(" \n")})},
      });
}

void AddLlama(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"bare", kLlama, R"({"name": "get_weather", "parameters": {"city": "SF"}})",
           Parts({Call("get_weather", R"({"city": "SF"})")})},
          {"bare, with a type", kLlama, R"({"type": "function", "name": "f", "parameters": {"city": "SF"}})",
           Parts({Call("f", R"({"city": "SF"})")})},
          {"tagged", kLlama, R"(<|python_tag|>{"name": "f", "parameters": {"q": "}{"}})",
           Parts({Call("f", R"({"q": "}{"})")})},
          {"several", kLlama,
           R"({"name": "f", "parameters": {}}; {"name": "g", "arguments": {"a": 1}};{"parameters": {}, "name": "h"})",
           Parts({Call("f", "{}"), Call("g", R"({"a": 1})"), Call("h", "{}")})},
          {"several, tagged", kLlama,
           R"(<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g"}<|python_tag|>{"name": "h"})",
           Parts({Call("f", "{}"), Call("g", "{}"), Call("h", "{}")})},
          {"on lines", kLlama, "\n\n{\"name\": \"f\", \"parameters\": {}}\n{\"name\": \"g\", \"parameters\": {}}\n",
           Parts({Call("f", "{}"), Call("g", "{}")})},
          {"parameters in a string", kLlama, R"({"name": "f", "parameters": "{\"a\":1}"})",
           Parts({Call("f", R"({"a":1})")})},
          {"Llama 4", kLlama, R"(Sure. <|python_start|>{"name": "f", "parameters": {"a": 1}}<|python_end|>)",
           Parts({Text("Sure. "), Call("f", R"({"a": 1})")})},
          {"then text", kLlama, R"({"name": "f", "parameters": {}} Now wait.)",
           Parts({Call("f", "{}"), Text("Now wait.")})},
          {"JSON that is no call", kLlama, R"({"answer": 42, "name": "x"})",
           Parts({Text(R"({"answer": 42, "name": "x"})")})},
          {"a person", kLlama, R"({"name": "Alice", "age": 3})", Parts({Text(R"({"name": "Alice", "age": 3})")})},
          {"a person without anything", kLlama, R"({"name": "Alice"})", Parts({Text(R"({"name": "Alice"})")})},
          {"parameters that are none", kLlama, R"({"name": "Alice", "parameters": 5})",
           Parts({Text(R"({"name": "Alice", "parameters": 5})")})},
          {"a call further on is quoted", kLlama, R"(For example {"name": "f", "parameters": {}})",
           Parts({Text(R"(For example {"name": "f", "parameters": {}})")})},
          {"built-in tool", kLlama, R"(<|python_tag|>brave_search.call(query="x"))",
           Parts({Text(R"(<|python_tag|>brave_search.call(query="x"))")})},
          {"plain", kLlama, "Hello, {name}!", Parts({Text("Hello, {name}!")})},
      });
}

void AddMistral(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"list", kMistral, R"([TOOL_CALLS][{"name": "f", "arguments": {"a": "]["}}, {"name": "g", "arguments": {}}])",
           Parts({Call("f", R"({"a": "]["})"), Call("g", "{}")})},
          {"list, text before", kMistral,
           R"(I will. [TOOL_CALLS] [{"arguments": {"a": 1}, "name": "f", "id": "9chars000"}])",
           Parts({Text("I will. "), Call("f", R"({"a": 1})")})},
          {"list, text after", kMistral, R"([TOOL_CALLS][{"name": "f", "arguments": {}}] Good.)",
           Parts({Call("f", "{}"), Text("Good.")})},
          {"names", kMistral, R"([TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]b.c-d{"x": {"y": "}"}})",
           Parts({Call("get_weather", R"({"city": "Paris"})"), Call("b.c-d", R"({"x": {"y": "}"}})")})},
          {"names with marks", kMistral,
           R"([TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]aB3dE6gH9[ARGS]{} [TOOL_CALLS] h [ARGS] {"b": 2})",
           Parts({Call("f", R"({"a": 1})"), Call("g", "{}"), Call("h", R"({"b": 2})")})},
          {"names, text", kMistral, R"(So: [TOOL_CALLS]f{"a": 1} and)",
           Parts({Text("So: "), Call("f", R"({"a": 1})"), Text("and")})},
          {"names, a brace too many", kMistral, R"([TOOL_CALLS]f{"a": 1}}[TOOL_CALLS]g{})",
           Parts({Call("f", R"({"a": 1})"), Call("g", "{}")})},
          {"one object", kMistral, R"([TOOL_CALLS]{"name": "f", "arguments": {}})", Parts({Call("f", "{}")})},
          {"an empty list", kMistral, "[TOOL_CALLS][]", Parts({Text("[TOOL_CALLS][]")})},
          {"two lists", kMistral, R"([TOOL_CALLS][[{"name": "f"}]])",
           Parts({Text(R"([TOOL_CALLS][[{"name": "f"}]])")})},
          {"a name alone", kMistral, "[TOOL_CALLS]f\n", Parts({Text("[TOOL_CALLS]f\n")})},
          {"a sentence", kMistral, "The token [TOOL_CALLS] comes first, [ARGS] next.",
           Parts({Text("The token [TOOL_CALLS] comes first, [ARGS] next.")})},
          {"other marks", kMistral, "[TOOL_CALLS]f[ARG]{} [TOOL_CALLS]f[ARGS]x [TOOL_CALLS]f[[ARGS]{}",
           Parts({Text("[TOOL_CALLS]f[ARG]{} [TOOL_CALLS]f[ARGS]x [TOOL_CALLS]f[[ARGS]{}")})},
          {"other marks, then a call", kMistral, "[TOOL_CALLS]f[ARG]{} [TOOL_CALLS]g[ARGS]{}",
           Parts({Text("[TOOL_CALLS]f[ARG]{} "), Call("g", "{}")})},
          {"objects after the calls", kMistral, R"([TOOL_CALLS]f{} {"name": "g", "arguments": {}})",
           Parts({Call("f", "{}"), Text(R"({"name": "g", "arguments": {}})")})},
          {"objects after the list", kMistral, R"([TOOL_CALLS][{"name": "f"}] {"name": "g", "arguments": {}})",
           Parts({Call("f", "{}"), Text(R"({"name": "g", "arguments": {}})")})},
          {"broken by itself", kMistral, R"([TOOL_CALLS]f[TOOL_CALLS]g{})",
           Parts({Text("[TOOL_CALLS]f[TOOL_CALLS]g{}")})},
          {"plain", kMistral, "x[0] = [1, 2]", Parts({Text("x[0] = [1, 2]")})},
      });
}

void AddOthers(std::vector<Answer>* corpus) {
  corpus->insert(
      corpus->end(),
      {
          {"phi", kPhi, R"(functools[{"name": "f", "arguments": {"a": "]"}}, {"name": "g", "parameters": {}}])",
           Parts({Call("f", R"({"a": "]"})"), Call("g", "{}")})},
          {"phi, text", kPhi, R"(Well, functools [ {"name": "f", "arguments": {}} ] done)",
           Parts({Text("Well, "), Call("f", "{}"), Text("done")})},
          {"phi, as its own template asks", kPhi,
           R"(<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|><|tool_call|>{"name": "g"}<|/tool_call|> .)",
           Parts({Call("f", "{}"), Call("g", "{}"), Text(".")})},
          {"phi, Python", kPhi, "import functools\nfunctools.reduce(f, functools[0]) functools[] func",
           Parts({Text("import functools\nfunctools.reduce(f, functools[0]) functools[] func")})},
          {"generic", kGeneric, R"([{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}])",
           Parts({Call("f", R"({"a": 1})"), Call("g", "{}")})},
          {"generic, one object", kGeneric, R"({"name": "f", "arguments": {"a": 1}})",
           Parts({Call("f", R"({"a": 1})")})},
          {"generic, spaces", kGeneric, "\n[\n  {\"name\": \"f\",\n \"arguments\": {}\n}\n]\n",
           Parts({Call("f", "{}")})},
          {"generic, other lists", kGeneric, R"([1, 2])", Parts({Text("[1, 2]")})},
          {"generic, other objects", kGeneric, R"([{"title": "x"}])", Parts({Text(R"([{"title": "x"}])")})},
          {"generic, second is none", kGeneric, R"([{"name": "f", "arguments": {}}, {"title": "x"}])",
           Parts({Call("f", "{}"), Text(R"({"title": "x"}])")})},
          {"generic, text", kGeneric, R"(See [1]: [{"name": "f", "arguments": {}}])",
           Parts({Text(R"(See [1]: [{"name": "f", "arguments": {}}])")})},
          {"no tools", kNone, " <tool_call>{\"name\":\"f\"}</tool_call><think>[TOOL_CALLS]f{}",
           Parts({Text(" <tool_call>{\"name\":\"f\"}</tool_call><think>[TOOL_CALLS]f{}")})},
      });
}

void AddReasoning(std::vector<Answer>* corpus) {
  corpus->insert(corpus->end(),
                 {
                     {"thought, text",
                      kQwen3,
                      "<think>\nHm, 日本 < x </thin\n</think>\n\nHello <think>\n",
                      {Thought("Hm, 日本 < x </thin\n"), Content("Hello <think>\n")}},
                     {"thought, call",
                      kQwen3,
                      "<think>\nI need <tool_call>{\"name\":\"no\",\"arguments\":{}}</tool_call>\n</think>\n\n"
                      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"</think>\"}}\n</tool_call>",
                      {Thought("I need <tool_call>{\"name\":\"no\",\"arguments\":{}}</tool_call>\n"),
                       {Kind::kCallBegins, 0, "f"},
                       {Kind::kArguments, 0, R"({"a": "</think>"})"}}},
                     {"no thought", kQwen3, "\nHello </think>", {Content("\nHello </think>")}},
                     {"empty thought", kQwen3, "<think>\n\n</think>\n\nHello", {Content("Hello")}},
                     {"white space first", kQwen3, " \n<think>a</think>b", {Thought("a"), Content("b")}},
                     {"almost a thought", kQwen3, " <thin", {Content(" <thin")}},
                     {"not a thought", kQwen3, "<<think>a</think>", {Content("<<think>a</think>")}},
                     {"thought without end", kQwen3, "<think>So </thi", {Thought("So </thi")}},
                     {"begun in the prompt",
                      kQwen3Begun,
                      "\nSo it is.\n</think>\n\nYes.",
                      {Thought("So it is.\n"), Content("Yes.")}},
                     {"begun in the prompt and again",
                      kQwen3Begun,
                      "<think>\nSo\n</think>Yes.",
                      {Thought("So\n"), Content("Yes.")}},
                     {"begun in the prompt, markers within",
                      kQwen3Begun,
                      "So <think> </<</think>Yes.",
                      {Thought("So <think> </<"), Content("Yes.")}},
                     {"R1", kR1, "Okay, so\n</think>\n\n2 </think>", {Thought("Okay, so\n"), Content("2 </think>")}},
                     {"R1 that ends early", kR1, "Okay, <think", {Thought("Okay, <think")}},
                     {"R1, broken beginning", kR1, "<thin", {Thought("<thin")}},
                     {"Mistral",
                      kMagistral,
                      R"([THINK]Let [/THIN] see[/THINK]Well. [TOOL_CALLS]f{"a": "[THINK]"})",
                      {Thought("Let [/THIN] see"),
                       Content("Well. "),
                       {Kind::kCallBegins, 0, "f"},
                       {Kind::kArguments, 0, R"({"a": "[THINK]"})"}}},
                     {"Mistral, no thought", kMagistral, "[T]", {Content("[T]")}},
                 });
}

}  // namespace

const std::vector<Answer>& AnswerCorpus() {
  static const auto* const corpus = [] {
    auto* answers = new std::vector<Answer>();
    AddHermes(answers);
    AddHermesArguments(answers);
    AddHermesMistakes(answers);
    AddLlama(answers);
    AddMistral(answers);
    AddOthers(answers);
    AddReasoning(answers);
    return answers;
  }();
  return *corpus;
}

std::vector<OutputEvent> Parse(const OutputFormat& format, const std::vector<std::string>& pieces) {
  OutputParser parser(format);
  std::vector<OutputEvent> all, events;
  for (const std::string& piece : pieces) {
    events.clear();  // as a server does, which sends them at once
    parser.Push(piece, &events);
    all.insert(all.end(), events.begin(), events.end());
  }
  events.clear();
  parser.Finish(&events);
  all.insert(all.end(), events.begin(), events.end());
  return Joined(all);
}

std::vector<OutputEvent> Joined(const std::vector<OutputEvent>& events) {
  std::vector<OutputEvent> joined;
  for (const OutputEvent& event : events) {
    const bool goes_on = !joined.empty() && joined.back().kind == event.kind && joined.back().call == event.call;
    if (goes_on) {
      EXPECT_NE(event.kind, Kind::kCallBegins);
      joined.back().text += event.text;
    } else {
      joined.push_back(event);
    }
  }
  return joined;
}

std::vector<std::string> Bytes(const std::string& text) {
  std::vector<std::string> bytes;
  for (const char byte : text) bytes.emplace_back(1, byte);
  return bytes;
}

bool operator==(const OutputEvent& a, const OutputEvent& b) {
  return a.kind == b.kind && a.call == b.call && a.text == b.text;
}

void PrintTo(const OutputEvent& event, std::ostream* out) {
  static constexpr const char* kNames[] = {"content", "reasoning", "call", "arguments"};
  *out << kNames[static_cast<int>(event.kind)];
  if (event.call >= 0) *out << " " << event.call;
  *out << " " << testing::PrintToString(event.text);
}

void PrintTo(const Answer& answer, std::ostream* out) {
  *out << NameOf(answer.format.tools) << ", " << NameOf(answer.format.reasoning) << ": " << answer.what;
}

}  // namespace shoal::text

// Lints awesome lists without network: all rules of awesome-lint but the one that asks GitHub about
// the repository. Warnings count, too. Usage: node lint.mjs README.md...
import process from 'node:process';
import {createConfig} from 'awesome-lint/config.js';
import {createRules} from 'awesome-lint/rules/index.js';
import lint from 'awesome-lint/index.js';

const offline = createRules().filter(([rule]) => rule.name !== 'remark-lint:awesome-github');

for (const filename of process.argv.slice(2)) {
	const files = await lint({filename, config: createConfig(offline)});
	for (const {line, column, reason, ruleId} of files.flatMap(file => file.messages)) {
		console.error(`${filename}:${line ?? 1}:${column ?? 1}: ${reason} (${ruleId})`);
		process.exitCode = 1;
	}
}
